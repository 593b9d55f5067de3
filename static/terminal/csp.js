// What xterm.js does with <style> elements and style attributes, in a way that the pages' policy
// (`style-src 'self'`) allows: through sheets and declarations made by script. build.mjs puts these
// in the places of what they stand for.

/** Stands for a <style> element: what is set as its text becomes a sheet of the document. */
export function styleElement() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const element = document.createElement("template");
  Object.defineProperty(element, "textContent", { set: (css) => sheet.replaceSync(css) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

/** Stands for setting the style attribute. */
export function setStyle(element, css) {
  element.style.cssText = css;
}
