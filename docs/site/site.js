// Boxes that scroll are reached by keyboard, and the search dialog has a name: the theme gives neither.
function makeReachable() {
  for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
}
addEventListener("load", () => {
  makeReachable();
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
});
addEventListener("resize", makeReachable);
