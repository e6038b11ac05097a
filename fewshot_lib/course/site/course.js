// What is wider than the page scrolls by itself: then it can be reached, and scrolled, with the keyboard too.
const reach = () => {
  for (const part of document.querySelectorAll("pre, .table-wrapper, .formula, math, .cell_output table")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  }
};
addEventListener("load", reach);
addEventListener("resize", reach);
