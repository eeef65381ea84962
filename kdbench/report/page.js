// The page's behaviour: charts in the page's colours, filters, the gallery's wipe. No network.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const byId = (id) => document.getElementById(id);

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function colours() {
  const style = getComputedStyle(root);
  return { text: style.getPropertyValue("--text").trim(), page: style.getPropertyValue("--page").trim() };
}

const isPhone = matchMedia("(max-width: 600px)"), isTouch = matchMedia("(hover: none)");
const isHeatMap = (figure) => figure.data[0].type === "heatmap";

// On a phone: classes below each other, so that a cell is as wide as its number; names beside points would cover them.
function forPhone(figure) {
  if (figure.data.some((trace) => (trace.mode || "").includes("text"))) {
    return { ...figure, data: figure.data.map((trace) => ({ ...trace, mode: trace.mode.replace("+text", "") })) };
  }
  if (!isHeatMap(figure)) return figure;
  const [map] = figure.data;
  const turned = { ...map, x: map.y.map((name) => name.replaceAll(" ", "<br>").replaceAll("-", "-<br>")), y: map.x, showscale: false };
  turned.z = map.x.map((_, column) => map.z.map((row) => row[column]));
  const layout = { ...figure.layout, height: 130 + 28 * map.x.length, margin: { ...figure.layout.margin, l: 10, r: 10 } };
  layout.xaxis = { ...layout.xaxis, tickangle: 0, side: "top" };
  return { data: [turned], layout };
}

function drawCharts() {
  const { text, page } = colours();
  for (const [name, drawn] of Object.entries(data.charts)) {
    const place = byId("chart-" + name);
    if (!place) continue;
    const figure = isPhone.matches ? forPhone(drawn) : drawn;
    if (figure.layout.height) place.style.minHeight = "0";
    if (isHeatMap(drawn)) place.style.minWidth = isPhone.matches ? 110 + 52 * figure.data[0].x.length + "px" : "";
    const layout = { ...figure.layout, font: { ...figure.layout.font, color: text }, hoverlabel: { bgcolor: page, font: { color: text } } };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: text, activecolor: text };
    // The baseline is black on white: in dark colours it is the text's.
    const inColour = JSON.parse(JSON.stringify(figure.data).replaceAll('"#000000"', JSON.stringify(text)));
    // A finger cannot hover: the bar would lie over the chart for good.
    Plotly.react(place, inColour, layout, { responsive: true, displaylogo: false, displayModeBar: isTouch.matches ? false : "hover" });
  }
  applyFilters();
}

function applyFilters() {
  const boxes = [...document.querySelectorAll("#filters input")];
  const hidden = (kind) => new Set(boxes.filter((box) => !box.checked && box.dataset[kind]).map((box) => box.dataset[kind]));
  const backends = hidden("backend"), precisions = hidden("precision");
  const shown = (about) => !about || !(backends.has(about.backend) || precisions.has(about.precision));
  for (const row of document.querySelectorAll("tr[data-backend]")) row.hidden = !shown(row.dataset);
  for (const name of ["scatter", "latency"]) {
    const place = byId("chart-" + name);
    if (place && place.data) Plotly.restyle(place, { visible: place.data.map((trace) => shown(trace.meta)) });
  }
}

function setTheme(theme) {
  root.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  drawCharts();
}

function setUpGallery() {
  const select = byId("picture");
  if (!select) return;
  const [left, right, slider] = ["left", "right", "slider"].map(byId);
  const methods = Object.keys(data.gallery[0].predictions), titleOf = (method) => data.titles[method] || method;
  const source = (picture, layer) => {
    const [kind, method] = layer.split(":");
    return kind === "image" || kind === "label" ? picture[kind] : picture[kind][method];
  };
  const wipe = () => {
    byId("above").style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    byId("wipe").style.left = slider.value + "%";
  };
  const show = () => {
    const index = Number(select.value), picture = data.gallery[index];
    for (const [id, choice] of [["above", left], ["below", right]]) {
      byId(id).src = source(picture, choice.value);
      byId(id).alt = picture.name + ", " + choice.selectedOptions[0].text;
    }
    const [, chosen] = right.value.split(":"), method = chosen || methods[methods.length > 1 ? 1 : 0];
    for (const [id, src, said] of [["photo", picture.image, "photo"], ["prediction", picture.overlays[method], titleOf(method)], ["difference", picture.errors[method], "difference"]]) {
      byId(id).src = src;
      byId(id).alt = picture.name + ", " + said;
      byId(id).nextElementSibling.textContent = said;
    }
    const scores = Object.entries(picture.miou).map(([method, miou]) => `${titleOf(method)} ${miou.toFixed(4)}`);
    byId("picture-facts").textContent = scores.length ? "mIoU of this image: " + scores.join(", ") : "No pixel of this image has a label.";
    document.querySelectorAll(".strip button").forEach((button, i) => button.setAttribute("aria-current", String(i === index)));
    wipe();
  };
  const step = (by) => { select.value = (Number(select.value) + by + data.gallery.length) % data.gallery.length; show(); };
  document.querySelectorAll(".strip img").forEach((img, i) => { img.src = data.gallery[i].image; });
  const layers = [...left.options].map((option) => option.value), overlays = layers.filter((layer) => layer.startsWith("overlays:"));
  left.value = "image";
  right.value = overlays[overlays.length > 1 ? 1 : 0] || "label";
  for (const choice of [select, left, right]) choice.addEventListener("change", show);
  slider.addEventListener("input", wipe);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  document.querySelectorAll(".strip button").forEach((button) => button.addEventListener("click", () => {
    select.value = button.dataset.picture; show(); byId("left").focus(); document.querySelector(".viewer").scrollIntoView({ block: "nearest" });
  }));
  show();
}

byId("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
byId("theme").setAttribute("aria-pressed", String(isDark()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
isPhone.addEventListener("change", drawCharts);
document.querySelectorAll("#filters input").forEach((box) => box.addEventListener("change", applyFilters));
setUpGallery();
drawCharts();
