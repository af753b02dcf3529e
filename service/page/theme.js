// Light or dark, before anything is drawn. A classic script, since a module would come after the first paint.
{
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // "dark" or "light"; null follows the system
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is switched off: a choice lasts as long as the page.
  }

  const isDark = () => (chosen === null ? system.matches : chosen === "dark");

  function apply() {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    document.getElementById("theme")?.setAttribute("aria-pressed", String(isDark()));
  }

  function toggle() {
    chosen = isDark() ? "light" : "dark";
    if ((chosen === "dark") === system.matches) chosen = null;
    try {
      if (chosen === null) localStorage.removeItem("theme");
      else localStorage.setItem("theme", chosen);
    } catch {
      // As above.
    }
    apply();
  }

  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", toggle);
  });
}
