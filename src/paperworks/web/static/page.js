// Typeset mathematics where there is some, copy code, and "/" for the search.
(() => {
  const { katex: source, style } = document.currentScript.dataset;
  let loaded;
  const load = () => loaded ||= new Promise((done, failed) => {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: style });
    const script = Object.assign(document.createElement("script"), { src: source, onload: done, onerror: failed });
    document.head.append(sheet, script);
  });
  const typeset = async (root) => {
    const found = root.querySelectorAll(".math:not(.set)");
    if (!found.length) return;
    await load();
    for (const element of found) {
      const text = element.textContent;
      element.classList.add("set");
      try {
        katex.render(element.dataset.tex, element, { displayMode: "block" in element.dataset && !element.closest(".card"), maxSize: 10, maxExpand: 200, strict: "ignore" });
      } catch { element.textContent = text; }  // as it was
    }
  };
  addEventListener("DOMContentLoaded", () => typeset(document));
  // A button to copy what is copied: made here, since without scripts it could do nothing.
  addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".copied")) {
      const text = place.querySelector("pre");
      if (!text || !navigator.clipboard) continue;
      const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
      button.setAttribute("aria-live", "polite");
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text.textContent.trimEnd() + "\n");
          button.textContent = "Copied";
        } catch {  // refused: what a person would copy by hand is chosen for them
          getSelection().selectAllChildren(text);
          button.textContent = "Selected: copy it by keyboard";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      (text.closest(".code") || text).before(button);
    }
  });
  addEventListener("htmx:load", (event) => typeset(event.target));
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), textarea, select")) return;
    event.preventDefault();
    (document.querySelector("main input[type=search]") || document.querySelector(".find input")).focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.closest?.(".find")) event.target.blur();
  });
})();
