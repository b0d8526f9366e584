// Before the first paint, so that a dark page does not flash: not a module, as those wait.
(() => {
  const theme = localStorage.getItem("gptoss-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
