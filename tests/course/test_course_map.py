import matplotlib

from fewshot_lib import course
from fewshot_lib.course.course_map import ARROWS, CHAPTERS, course_map, map_alt


def test_the_map_names_every_chapter_fills_where_the_reader_is_and_dashes_what_is_missing(tmp_path):
    (tmp_path / f"{CHAPTERS[1].notebook}.ipynb").touch()
    ax = course_map(CHAPTERS[2].notebook, tmp_path).axes[0]
    assert len(ax.patches) == len(CHAPTERS)
    colours = [matplotlib.colors.to_hex(box.get_facecolor()).upper() for box in ax.patches]
    assert [i for i, colour in enumerate(colours) if colour == "#0072B2"] == [2]
    assert [i for i, box in enumerate(ax.patches) if box.get_linestyle() in ("-", "solid")] == [1]
    texts = [text.get_text() for text in ax.texts]
    assert all(f"{c.notebook[:2]}  {c.title}" in texts and c.room in texts for c in CHAPTERS)

    alt = map_alt(CHAPTERS[2].notebook, tmp_path)
    assert "\n" not in alt and "You are at 02" in alt and "Dashed, not written yet: 00, 02" in alt
    arrows = [text for text in ax.texts if text.get_text() == "" and hasattr(text, "xyann")]
    for arrow, (a, b) in zip(arrows, ARROWS, strict=True):
        assert arrow.xy[0] > arrow.xyann[0] or CHAPTERS[a].place[0] == CHAPTERS[b].place[0]


def test_the_arrows_say_what_the_chapters_build_on():
    last = len(CHAPTERS)
    assert {b for _, b in ARROWS} == set(range(1, last)), "every chapter but the first stands on another"
    assert {a for a, _ in ARROWS} == set(range(last - 1)), "every chapter but the last is built upon"


def test_one_call_shows_it_with_its_words(displayed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    course.show_map(CHAPTERS[3].notebook)
    ((data, metadata),) = displayed
    assert metadata["image/png"]["alt"] == map_alt(CHAPTERS[3].notebook) and "<figure>" in data["text/html"]
