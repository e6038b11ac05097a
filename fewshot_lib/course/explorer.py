"""The one door to widgets: a pure function that draws, a few discrete values, and an alternative text.

In a live notebook every control is a slider or a list that works from the keyboard. Without widgets, or with
``FEWSHOT_STATIC=1``, the same function is drawn at the defaults and at chosen frames, as ordinary figures that every
reader of the notebook sees.
"""

from __future__ import annotations

import html
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from fewshot_lib.course.figures import check_alt, figure_html, png_bytes, show


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
            _check_control(name, control)
        for frame in self.frames:
            self.values(**frame)

    def values(self, **changed: Any) -> dict[str, Any]:
        """The defaults with some values changed. Raises ValueError for a control or value that does not exist."""
        for name, value in changed.items():
            if name not in self.controls:
                raise ValueError(f"`{name}` is not a control: choose from {', '.join(self.controls)}.")
            if value not in self.controls[name][1]:
                raise ValueError(f"`{name}` cannot be {value!r}: choose from {list(self.controls[name][1])!r}.")
        return {name: changed.get(name, default) for name, (default, _) in self.controls.items()}

    def settings(self) -> Iterator[dict[str, Any]]:
        """The defaults, then every value of every control, one control changed at a time."""
        yield self.values()
        for name, (default, choices) in self.controls.items():
            yield from (self.values(**{name: value}) for value in choices if value != default)

    def render(self, **changed: Any) -> bytes:
        """The figure at these values, as PNG."""
        return png_bytes(self.draw(**self.values(**changed)))

    def sweep(self) -> int:
        """Draws every one of :meth:`settings`, so that a value that fails is found; returns how many were drawn."""
        settings = list(self.settings())
        for values in settings:
            self.render(**values)
        return len(settings)

    def describe(self, values: Mapping[str, Any]) -> str:
        """The values in words, for captions and alternative texts: k = 5, metric = cosine."""
        return ", ".join(f"{name} = {value}" for name, value in values.items())

    def _caption(self, text: str) -> str:
        return f"{self.caption} ({text})" if self.caption else text

    def show_static(self) -> None:
        """The figure at the defaults and at every frame, as ordinary outputs."""
        shown: list[dict[str, Any]] = []
        for values in [self.values(), *(self.values(**frame) for frame in self.frames)]:
            if values not in shown:
                shown.append(values)
                text = self.describe(values)
                show(self.draw(**values), alt=f"{self.alt} ({text})", caption=self._caption(text))

    def show_live(self) -> None:
        """Widgets: a control per parameter above the figure, which follows them."""
        display(self.widget())

    def widget(self) -> Any:
        """The controls and the figure as one ipywidgets box; an error of the drawing function is shown in its place."""
        import ipywidgets

        picture = ipywidgets.HTML()
        controls = {name: _control_widget(ipywidgets, name, *control) for name, control in self.controls.items()}

        def redraw(_change: Any = None) -> None:
            picture.value = self._picture({name: control.value for name, control in controls.items()})

        for control in controls.values():
            control.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*controls.values(), picture])

    def _picture(self, values: Mapping[str, Any]) -> str:
        text = self.describe(values)
        try:
            png = png_bytes(self.draw(**values))
        except Exception as error:  # shown where the learner looks; a callback's traceback would end in a log nobody reads
            return f'<p role="alert"><b>{type(error).__name__}</b> at {html.escape(text)}: {html.escape(str(error))}</p>'
        return figure_html(png, f"{self.alt} ({text})", self._caption(text))


def explore(
    fn: Callable[..., Any],
    *,
    alt: str,
    frames: Sequence[Mapping[str, Any]] | None = None,
    caption: str | None = None,
    **controls: tuple[Any, Sequence[Any]],
) -> None:
    """Lets the reader change what a figure shows: ``explore(draw, k=(5, [1, 2, 5, 10]), alt="…", frames=[dict(k=1)])``.

    fn: a pure function of the controls that returns a matplotlib Figure. Each control is (default, values).
    frames: settings, given as changes to the defaults, that a reader without widgets sees too.

    With ``FEWSHOT_STRICT=1`` every value of every control is drawn once, so that a test finds the one that fails.

    Raises ValueError for a default or frame that is not among the values, and for an empty ``alt``.
    """
    exploration = Exploration(fn, controls, alt, frames or (), caption)
    if os.environ.get("FEWSHOT_STRICT") == "1":
        exploration.sweep()
    if os.environ.get("FEWSHOT_STATIC") == "1" or importlib.util.find_spec("ipywidgets") is None:
        exploration.show_static()
    else:
        exploration.show_live()


def _check_control(name: str, control: Any) -> None:
    if not (isinstance(control, tuple) and len(control) == 2 and isinstance(control[1], list | tuple) and control[1]):
        raise ValueError(f"`{name}` is {control!r}: give (default, values), for example (5, [1, 2, 5, 10]).")
    default, values = control
    if default not in values:
        raise ValueError(f"`{name}` starts at {default!r}, which is not among its values {list(values)!r}: add it or start elsewhere.")


def _control_widget(ipywidgets: Any, name: str, default: Any, values: Sequence[Any]) -> Any:
    """A slider for numbers, a list for anything else; both can be moved with the arrow keys."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    kind = ipywidgets.SelectionSlider if is_number else ipywidgets.Dropdown
    return kind(options=[(str(value), value) for value in values], value=default, description=name, style={"description_width": "initial"})
