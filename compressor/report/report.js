// Draws every figure into its place. On narrow screens the names in the drawing become a legend.
"use strict";

(() => {
  const LEGEND_LINE = 19;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 640px)");

  const fitted = ({ data, layout }) => {
    if (!narrow.matches) return layout;
    const named = data.filter((trace) => trace.showlegend !== false).length;
    const top = 48 + LEGEND_LINE * named;
    return {
      ...layout,
      annotations: [],
      showlegend: true,
      height: layout.height + top - layout.margin.t,
      margin: { ...layout.margin, l: 36, r: 8, t: top },
    };
  };

  const draw = () => {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = figures[Number(place.dataset.figure)];
      Plotly.react(place, figure.data, fitted(figure), { displayModeBar: false, responsive: true });
    }
  };

  narrow.addEventListener("change", draw);
  draw();
})();
