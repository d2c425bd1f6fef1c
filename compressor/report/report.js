// Draws every figure into its place. On narrow screens the names beside the points become a legend.
"use strict";

(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 640px)");

  const fitted = (layout) => {
    if (!narrow.matches) return layout;
    const hasPointLabels = layout.annotations.some((note) => note.name === "point");
    return {
      ...layout,
      annotations: layout.annotations.filter((note) => note.name !== "point"),
      showlegend: layout.showlegend || hasPointLabels,
      margin: { ...layout.margin, l: 36, r: 8 },
    };
  };

  const draw = () => {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const { data, layout } = figures[Number(place.dataset.figure)];
      Plotly.react(place, data, fitted(layout), { displayModeBar: false, responsive: true });
    }
  };

  narrow.addEventListener("change", draw);
  draw();
})();
