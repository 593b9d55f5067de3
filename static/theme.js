// What must be right at the first paint: the theme, and which half of the home page shows.
//
// Runs in <head> before anything is drawn, so it is small, blocking and no module. The theme
// follows the system until somebody chooses. `session` is only a guess kept from the last visit
// (the cookie cannot be read here); the home page corrects it when the server has answered.
// Storage may be forbidden: then nothing is remembered and everything else works.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const kept = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const keep = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      // Not remembered: the next page follows the system again.
    }
  };

  let chosen = kept("vmshare.theme");
  const apply = () => {
    const theme = chosen ?? (system.matches ? "dark" : "light");
    root.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.setAttribute("aria-pressed", String(theme === "dark"));
    }
  };

  root.dataset.session = kept("vmshare.session") === "in" ? "in" : "out";
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  addEventListener("storage", (event) => {
    if (event.key !== "vmshare.theme") return;
    chosen = event.newValue;
    apply();
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    keep("vmshare.theme", chosen);
    apply();
  });
})();
