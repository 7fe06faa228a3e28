// Typeset what the pages show in Unicode.
for (const element of document.querySelectorAll(".math[data-tex]")) {
  const text = element.textContent;
  try {
    katex.render(element.dataset.tex, element, { displayMode: "block" in element.dataset, strict: "ignore" });
  } catch { element.textContent = text; }  // as it was
}
