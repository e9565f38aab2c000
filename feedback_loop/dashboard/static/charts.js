// Draws the figures that stand in the page as JSON, in the colours of the style sheet.
(() => {
  const styles = () => getComputedStyle(document.documentElement);
  const coloured = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((inner) => coloured(inner, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, coloured(inner, style)]));
    }
    return value;
  };
  const axis = (style) => ({
    gridcolor: style.getPropertyValue("--line").trim(),
    linecolor: style.getPropertyValue("--line").trim(),
    zerolinecolor: style.getPropertyValue("--line").trim(),
    tickfont: { color: style.getPropertyValue("--muted").trim() },
    automargin: true,
  });
  const draw = (figure) => {
    const plot = figure.querySelector(".plot");
    const { data, layout, height } = JSON.parse(figure.querySelector("script").textContent);
    const style = styles();
    const base = {
      height,
      margin: { l: 48, r: 16, t: (layout.annotations ?? []).length ? 40 : 20, b: 36 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: style.getPropertyValue("--text").trim() },
      hoverlabel: { bgcolor: style.getPropertyValue("--raised").trim(), font: { color: style.getPropertyValue("--text").trim() } },
      legend: { orientation: "h", x: 1, xanchor: "right", y: (layout.annotations ?? []).length ? 1.07 : 1.02, yanchor: "bottom" },
      hovermode: "closest",
      dragmode: false,
    };
    const drawn = coloured(layout, style);
    const axes = Object.keys(drawn).filter((name) => /^[xy]axis/.test(name));
    for (const name of new Set(["xaxis", "yaxis", ...axes])) drawn[name] = { ...axis(style), ...drawn[name] };
    Plotly.purge(plot);
    Plotly.newPlot(plot, coloured(data, style), { ...base, ...drawn }, { displayModeBar: false, responsive: true });
  };
  const all = () => document.querySelectorAll("[data-chart]").forEach(draw);
  document.addEventListener("DOMContentLoaded", all);
  document.addEventListener("themechange", all);
  document.addEventListener("htmx:afterSettle", all);
})();
