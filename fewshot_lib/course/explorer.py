"""The one door to widgets: a pure function that draws, a few discrete values, and an alternative text.

In a live notebook every control is a slider or a list that works from the keyboard. Without widgets, or with
``FEWSHOT_STATIC=1``, the same function is drawn at the defaults and at chosen frames, as ordinary figures
that every reader of the notebook sees.
"""

import html
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from fewshot_lib.course.figures import check_alt, figure_html, png_bytes, show
from fewshot_lib.data.reporting import shows_progress


@dataclass(frozen=True)
class Exploration:
    """A drawing function with its controls, checked. ``controls[name]`` is (default, list of values)."""

    draw: Callable[..., Any]
    controls: Mapping[str, tuple[Any, Sequence[Any]]]
    alt: str
    frames: Sequence[Mapping[str, Any]] = ()
    caption: str | None = None

    def __post_init__(self) -> None:
        check_alt(self.alt)
        if not self.controls:
            raise ValueError("`explore` got no control: give at least one, for example k=(5, [1, 2, 5, 10]).")
        for name, control in self.controls.items():
            is_pair = isinstance(control, tuple) and len(control) == 2
            if not (is_pair and isinstance(control[1], list | tuple) and control[1]):
                fix = "give (default, values), for example (5, [1, 2, 5, 10])."
                raise ValueError(f"`{name}` is {control!r}: {fix}")
            if control[0] not in control[1]:
                found = f"starts at {control[0]!r}, which is none of its values {list(control[1])!r}"
                raise ValueError(f"`{name}` {found}: add it or start elsewhere.")
        for frame in self.frames:
            self.values(**frame)

    def values(self, **changed: Any) -> dict[str, Any]:
        """The defaults with some values changed. ValueError for a control or a value that does not exist."""
        for name, value in changed.items():
            if name not in self.controls:
                raise ValueError(f"`{name}` is not a control: choose from {', '.join(self.controls)}.")
            if value not in self.controls[name][1]:
                choices = list(self.controls[name][1])
                raise ValueError(f"`{name}` cannot be {value!r}: choose from {choices!r}.")
        return {name: changed.get(name, default) for name, (default, _) in self.controls.items()}

    def settings(self) -> Iterator[dict[str, Any]]:
        """The defaults, then every value of every control, one control changed at a time."""
        yield self.values()
        for name, (default, choices) in self.controls.items():
            yield from (self.values(**{name: value}) for value in choices if value != default)

    def words(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Alternative text and caption at these values, which they name: k = 5, metric = cosine."""
        text = _in_words(values)
        return {"alt": f"{self.alt} ({text})", "caption": self.caption and f"{self.caption} ({text})"}

    def show_static(self) -> None:
        """The figure at the defaults and at every frame, as ordinary outputs."""
        shown: list[dict[str, Any]] = []
        for values in [self.values(), *(self.values(**frame) for frame in self.frames)]:
            if values not in shown:
                shown.append(values)
                show(self.draw(**values), **self.words(values))

    def widget(self) -> Any:
        """The controls, and below them the figure, which follows them; all can be moved with arrow keys."""
        import ipywidgets

        picture, controls = ipywidgets.HTML(), {}
        for name, (default, values) in self.controls.items():
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
            options, style = [(str(value), value) for value in values], {"description_width": "initial"}
            controls[name] = kind(options=options, value=default, description=name, style=style)

        def redraw(_change: Any = None) -> None:
            picture.value = self._picture({name: control.value for name, control in controls.items()})

        for control in controls.values():
            control.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*controls.values(), picture])

    def _picture(self, values: Mapping[str, Any]) -> str:
        """HTML: the figure, or why there is none; a callback's traceback ends in a log nobody reads."""
        try:
            return figure_html(png_bytes(self.draw(**values)), **self.words(values))
        except Exception as error:
            text = f"at {_in_words(values)}: {error}"
            return f'<p role="alert"><b>{type(error).__name__}</b> {html.escape(text)}</p>'


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def explore(
    fn: Callable[..., Any],
    *,
    alt: str,
    frames: Sequence[Mapping[str, Any]] = (),
    caption: str | None = None,
    **controls: tuple[Any, Sequence[Any]],
) -> None:
    """Lets the reader change what a figure shows: ``explore(draw, k=(5, [1, 5]), alt="…")``.

    fn: a pure function of the controls that returns a matplotlib Figure. Each control is (default, values).
    frames: settings, given as changes to the defaults, that a reader without widgets sees too.

    With ``FEWSHOT_STRICT=1`` every value of every control is drawn once, so that a test finds one that fails.
    """
    exploration = Exploration(fn, controls, alt, frames, caption)
    if os.environ.get("FEWSHOT_STRICT") == "1":
        for values in exploration.settings():
            png_bytes(fn(**values))
    if shows_progress() and importlib.util.find_spec("ipywidgets") is not None:
        display(exploration.widget())
    else:
        exploration.show_static()
