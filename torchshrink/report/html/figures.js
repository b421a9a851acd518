// Draw each figure from the data that its element holds. Its legend is of buttons, which a keyboard reaches too.
(() => {
  const AXIS = {automargin: true, zeroline: false, gridcolor: "#8888", linecolor: "#8888", ticks: ""};
  const LOOK = {
    margin: {l: 8, r: 12, t: 12, b: 8}, font: {family: "inherit", size: 12}, showlegend: false, hovermode: "closest",
    dragmode: "zoom", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  };
  const CONFIG = {responsive: true, displaylogo: false, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]]};

  const axes = (layout) => {
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) layout[key] = {...AXIS, ...layout[key]};
    }
    return {...LOOK, ...layout};
  };

  // A picture that knows its shape is scaled by whatever prints the page.
  const keepShape = (place) => {
    for (const picture of place.querySelectorAll(".main-svg")) {
      const [width, height] = [picture.getAttribute("width"), picture.getAttribute("height")];
      picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
      place.style.setProperty("--shape", `${width} / ${height}`);
    }
  };

  const addSwitches = (place, data) => {
    const names = new Map();
    data.forEach((trace, index) => {
      if (trace.name) names.set(trace.name, [...(names.get(trace.name) ?? []), index]);
    });
    if (names.size < 2) return;
    const bar = document.createElement("div");
    bar.className = "switches";
    for (const [name, indices] of names) {
      const [button, sign, trace] = [document.createElement("button"), document.createElement("span"), data[indices[0]]];
      sign.textContent = trace.meta ?? "\u25a0";
      sign.style.color = trace.marker?.color ?? trace.line?.color;
      sign.setAttribute("aria-hidden", "true");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(sign, name);
      button.addEventListener("click", () => {
        const isShown = button.getAttribute("aria-pressed") === "false";
        button.setAttribute("aria-pressed", isShown);
        Plotly.restyle(place, {visible: isShown}, indices);
      });
      bar.append(button);
    }
    place.after(bar);
  };

  const draw = (place) => {
    if (place.classList.contains("js-plotly-plot")) return;
    const {data, layout} = JSON.parse(place.dataset.figure);
    addSwitches(place, data);
    Plotly.newPlot(place, data, axes(layout), CONFIG).then(() => {
      keepShape(place);
      place.on("plotly_afterplot", () => keepShape(place));
    });
  };

  for (const place of document.querySelectorAll(".figure")) {
    const folded = place.closest("details:not([open])");
    if (folded) folded.addEventListener("toggle", () => draw(place), {once: true});
    else draw(place);
  }
})();
