// Draws Mermaid diagrams with the vendored script, in the colours of the present theme.
(() => {
  const base = new URL("vendor/mermaid/mermaid.tiny.js", document.currentScript.src).href;
  const load = (url) => new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
  const isDark = () => document.documentElement.dataset.theme === "dark";
  let count = 0;

  async function draw() {
    window.mermaid.initialize({
      startOnLoad: false,
      securityLevel: "strict",
      theme: isDark() ? "dark" : "neutral",
      fontFamily: getComputedStyle(document.body).fontFamily,
    });
    for (const figure of document.querySelectorAll(".mermaid-figure")) {
      const source = figure.querySelector(".mermaid-source");
      source.hidden = true;
      const { svg } = await window.mermaid.render(`mermaid-${count++}`, source.textContent);
      figure.querySelector(".mermaid-drawing")?.remove();
      const drawing = document.createElement("div");
      drawing.className = "mermaid-drawing";
      drawing.innerHTML = svg;
      // On a phone a wide diagram scrolls in its box; it does not shrink until it is unreadable.
      const picture = drawing.firstElementChild;
      picture.style.minWidth = `${Math.min(0.8 * picture.viewBox.baseVal.width, 620)}px`;
      figure.append(drawing);
    }
  }

  document.addEventListener("DOMContentLoaded", async () => {
    // Wide tables scroll inside their own box, not the page.
    for (const table of document.querySelectorAll(".bd-article table")) {
      if (table.closest(".pst-scrollable-table-container, .highlight, .table-scroll")) continue;
      const box = document.createElement("div");
      box.className = "table-scroll";
      box.tabIndex = 0;
      table.replaceWith(box);
      box.append(table);
    }
    if (!document.querySelector(".mermaid-figure")) return;
    await load(base);
    await draw();
    let theme = document.documentElement.dataset.theme;
    new MutationObserver(() => {
      if (theme === document.documentElement.dataset.theme) return;
      theme = document.documentElement.dataset.theme;
      draw();
    }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
