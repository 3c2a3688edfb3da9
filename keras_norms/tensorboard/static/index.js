// The tab "Norms": it asks the server, draws the view that the state names, and listens.

import { init } from "./vendor/echarts.js";
import { bars, PUBLISHED } from "./bars.js";
import { curves } from "./curves.js";
import { data, poll } from "./data.js";
import { saveCsv, savePng, saveSvg } from "./export.js";
import { gates } from "./gates.js";
import { map } from "./map.js";
import { drawMovers } from "./movers.js";
import { decidingKind, escape, kindsOf } from "./panels.js";
import { runs } from "./runs.js";
import { simplex } from "./simplex.js";
import { address, onAddress, readState, state, VIEWS, writeState } from "./state.js";
import { between, heading, onTheme, theme } from "./theme.js";

const views = { map, simplex, bars, runs, gates };
const POLL = 2000; // milliseconds between two questions to the server
const PLAY = 8000; // milliseconds in which play goes over a run
const DEPTHS = 32; // colours
const IDLE = 150; // milliseconds after the last step until what is slow follows

const PAGE = `
<header>
  <nav role="tablist" aria-label="View">
    ${Object.entries(VIEWS).map(([view, name], i) => `<button role="tab" data-view="${view}" title="Key ${i + 1}">${name}</button>`).join("")}
  </nav>
  <label>Run <select id="run"></select></label>
  <label>Compare <select id="other"></select></label>
  <label>Stage <select id="stage"></select></label>
  <label>Layers <input id="filter" type="search" placeholder="expression" title="A regular expression. Key /" spellcheck="false"></label>
  <label>Weights <select id="kind">
    <option value="">all</option><option value="mean">mean</option>
    <option value="variance">variance</option><option value="both">both</option>
  </select></label>
  <label data-for="bars">Paper <select id="published"><option value="">none</option>
    ${PUBLISHED.map((size) => `<option value="${size}">${size} per GPU</option>`).join("")}
  </select></label>
  <label data-for="runs map simplex bars">Others at <select id="align">
    <option value="progress">same progress</option><option value="step">same step</option>
  </select></label>
</header>
<p id="problems" role="status" hidden></p>
<main>
  <section>
    <div id="view" role="img"></div>
    <div id="message" hidden></div>
    <h2><span id="title"></span><span id="legend"></span></h2>
    <div id="curves" role="img"></div>
    <footer>
      <button id="play" title="Space" aria-label="Play">\u25b6</button>
      <input id="step" type="range" min="0" value="0" aria-label="Step">
      <output id="at"></output>
      <span class="export" role="group" aria-label="Export">
        <button id="png">PNG</button><button id="svg">SVG</button><button id="csv">CSV</button>
        <button id="link" title="Copy the address of this view">Link</button>
      </span>
    </footer>
  </section>
  <aside>
    <table>
      <thead><tr>
        <th><button data-sort="depth" title="Sort by depth">layer</button></th>
        <th><button data-sort="moved" title="The share that has changed most since the first step">moved most</button></th>
        <th><button data-sort="entropy" title="Entropy of the shares: 1 is equal shares, 0 is one statistic alone">entropy</button></th>
      </tr></thead>
      <tbody id="movers"></tbody>
    </table>
    <p id="note"></p>
    <p class="keys"><kbd>\u2190</kbd><kbd>\u2192</kbd> step <kbd>Space</kbd> play <kbd>\u2191</kbd><kbd>\u2193</kbd> layer
      <kbd>Esc</kbd> all layers <kbd>1</kbd>\u2013<kbd>5</kbd> view <kbd>/</kbd> select</p>
  </aside>
</main>`;

const $ = (id) => document.getElementById(id);
let look = theme({});
let charts;
let row = 0; // of the run that is shown
let live = true; // whether the newest row is shown
let wanted = false; // whether a frame is asked for
let playing = 0;
let idle = 0;
let lost = ""; // why the server does not answer

function pattern() {
  try {
    $("filter").removeAttribute("aria-invalid");
    return new RegExp(state.filter, "i");
  } catch {
    $("filter").setAttribute("aria-invalid", "true");
    return /(?:)/; // while an expression is being typed
  }
}

const runOf = (name) => data.runs.get(name);
const mainRun = () => runOf(state.run) ?? data.runs.values().next().value;
const otherRun = () => (runOf(state.other) === mainRun() ? undefined : runOf(state.other));
const shownRuns = () =>
  state.view === "runs" ? [...data.runs.values()] : [mainRun(), otherRun()].filter(Boolean);

// The colours of layers by depth; few enough to be drawn in one go each.
function depthColours(count) {
  const colours = Array.from({ length: DEPTHS }, (_, i) => between(look.depth, i / (DEPTHS - 1)));
  return Array.from({ length: count }, (_, i) => colours[Math.round((i / Math.max(count - 1, 1)) * (DEPTHS - 1))]);
}

// All that a view has to know. It is made once for each state; a frame changes the rows alone.
function makeContext() {
  const run = mainRun();
  const other = otherRun();
  const expression = pattern();
  const known = new Map();
  const selectedOf = (one) => {
    if (!known.has(one)) {
      const chosen = one.layers.flatMap(({ path, stage }, layer) =>
        (!state.stage || stage === state.stage) && expression.test(path) ? [layer] : [],
      );
      known.set(one, chosen);
    }
    return known.get(one);
  };
  const shown = shownRuns();
  const context = {
    state,
    look,
    run,
    other,
    runs: [...data.runs.values()].filter((one) => one.steps.length),
    shownRuns: shown,
    labels: data.labels,
    statistics: data.statistics.filter((s) => shown.some((one) => kindsOf(one, state.kind).some((kind) => one.index[kind][s]))),
    selected: selectedOf(run),
    selectedOf,
    kindOf: (one) => decidingKind(one, kindsOf(one, state.kind), selectedOf(one)),
    layer: run.places.get(state.layer),
    layerIn: (one, layer) => (one === run ? layer : one.places.get(run.layers[layer].path)),
    depthColours: depthColours(run.layers.length),
    rowOf(one) {
      if (one === run) return row;
      if (state.align === "step") return one.rowAt(run.steps[row]);
      return Math.round((row / Math.max(run.steps.length - 1, 1)) * (one.steps.length - 1));
    },
    width: $("view").clientWidth,
    height: $("view").clientHeight,
    curvesWidth: $("curves").clientWidth,
  };
  return atRow(context);
}

function atRow(context) {
  return Object.assign(context, {
    row,
    otherRow: context.other && context.rowOf(context.other),
  });
}

let context;

let draws = 0; // begun

// Draws everything anew: after a change of the state, the data, the theme or the size.
async function draw() {
  const mine = ++draws;
  writeState();
  drawProblems();
  const run = mainRun();
  document.body.classList.toggle("empty", !run);
  if (!run) return showMessage(advice());
  try {
    await Promise.all(shownRuns().map((one) => one.load()));
    if (state.view === "gates") await run.loadGates();
  } catch (error) {
    return mine === draws && showMessage(`<h1>Nothing to draw</h1><p>${escape(error.message)}</p>`);
  }
  if (mine !== draws || !run.steps.length) return undefined; // a newer one draws what it waited for
  live = state.step === "";
  row = live ? run.steps.length - 1 : run.rowAt(Number(state.step));
  drawControls(run);
  context = makeContext();
  if (!context.selected.length) {
    return showMessage("<h1>No layer is selected</h1><p>Change the stage, or the regular expression.</p>");
  }
  const view = views[state.view];
  const problem = view.problem?.(context);
  if (problem) return showMessage(`<h1>No gates</h1><p>${problem}</p>`);
  $("message").hidden = true;
  for (const chart of charts) chart.resize();
  charts[0].setOption(view.option(context), { notMerge: true });
  charts[1].setOption(curves.option(context), { notMerge: true });
  curves.move(context, charts[1], $("curves"));
  drawTexts();
  drawList();
  return done();
}

// Draws what depends on the step.
function drawFrame() {
  wanted = false;
  if (!context || !$("message").hidden) return;
  atRow(context);
  charts[0].setOption(views[state.view].frame(context), { silent: true });
  curves.move(context, charts[1], $("curves"));
  drawTexts();
  clearTimeout(idle);
  idle = setTimeout(() => {
    const { settled } = views[state.view];
    if (settled) charts[0].setOption(settled(context), { silent: true });
    drawList();
    writeState();
  }, IDLE);
  done();
}

// Says to scripts which row the picture shows, and how many pictures there were.
function done() {
  document.body.dataset.row = row;
  document.body.dataset.pictures = 1 + Number(document.body.dataset.pictures ?? 0);
}

function drawTexts() {
  const { run } = context;
  const step = run.steps[row];
  const last = run.steps.at(-1);
  $("at").textContent = `step ${step.toLocaleString("en")} of ${last.toLocaleString("en")}${data.reading ? " \u00b7 reading" : live ? " \u00b7 newest" : ""}`;
  $("step").value = row;
  $("step").setAttribute("aria-valuetext", `step ${step}`);
  $("title").textContent = curves.title(context);
  $("legend").innerHTML = context.statistics
    .map((s) => `<i style="background:${look.statistics[s]}"></i>${data.labels[s]}`)
    .join(" ");
  $("curves").setAttribute("aria-label", `Curves: ${curves.title(context)}`);
  $("view").setAttribute("aria-label", `${VIEWS[state.view]} of ${run.label} at step ${step}`);
}

function drawList() {
  drawMovers($("movers"), $("note"), context);
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.setAttribute("aria-pressed", button.dataset.sort === state.sort);
  }
}

function drawControls(run) {
  const options = (names, none) =>
    [...(none === undefined ? [] : [["", none]]), ...names]
      .map(([value, text]) => `<option value="${escape(value)}">${escape(text)}</option>`)
      .join("");
  const fill = (id, html, value) => {
    if ($(id).dataset.html !== html) {
      $(id).innerHTML = html;
      $(id).dataset.html = html;
    }
    $(id).value = value;
  };
  const names = [...data.runs.values()].map((one) => [one.name, one.label]);
  fill("run", options(names), run.name);
  fill("other", options(names.filter(([name]) => name !== run.name), "\u2013"), otherRun()?.name ?? "");
  fill("stage", options(run.stages.map((stage) => [stage, stage]), "all"), state.stage);
  for (const id of ["kind", "published", "align"]) $(id).value = state[id];
  if (document.activeElement !== $("filter")) $("filter").value = state.filter;
  for (const tab of document.querySelectorAll("[data-view]")) {
    tab.setAttribute("aria-selected", tab.dataset.view === state.view);
  }
  for (const label of document.querySelectorAll("[data-for]")) {
    const used = label.dataset.for.split(" ").includes(state.view);
    label.hidden = !used || (label.contains($("align")) && !otherRun() && state.view !== "runs");
  }
  $("step").max = run.steps.length - 1;
}

function drawProblems() {
  const found = Object.entries(data.problems);
  const list = found.slice(0, 3).map(([path, problem]) => `<b>${escape(path)}</b> ${escape(problem)}.`);
  if (found.length > 3) list.push(`${found.length - 3} more have such problems.`);
  if (lost) list.unshift(`TensorBoard does not answer (${escape(lost)}). Start it again: this page waits for it.`);
  const html = list.join("<br>");
  $("problems").hidden = !html;
  if ($("problems").dataset.html === html) return; // what is written anew is read out anew
  $("problems").innerHTML = $("problems").dataset.html = html;
}

function advice() {
  const where = data.roots.map((root) => `<code>${escape(root)}</code>`).join(", ");
  if (data.reading) return `<h1>Reading event files</h1><p>${data.files} so far, below ${where}.</p>`;
  const how =
    "<p>Log them on a model with <code>SwitchableNormalization</code> or " +
    "<code>BatchInstanceNormalization</code> layers:</p><pre>logger = keras_norms.callbacks.SwitchLogger(log_dir)\n" +
    "model.fit(x, y, callbacks=[logger])</pre><p>This page shows them as soon as they are written.</p>";
  if (!data.files) return `<h1>No event files</h1><p>There are none below ${where}. Is that the log-dir?</p>${how}`;
  return (
    `<h1>No switches and no gates</h1><p>${data.files} event files below ${where} were read, and none has a tag ` +
    `<code>switch/\u2026</code> or <code>gate/\u2026</code> that is complete.</p>${how}`
  );
}

function showMessage(html) {
  $("message").innerHTML = html;
  $("message").hidden = false;
  done();
}

function change(changes) {
  Object.assign(state, changes);
  return draw();
}

function goTo(next) {
  if (!context) return;
  const { run } = context;
  row = Math.min(Math.max(next, 0), run.steps.length - 1);
  live = row === run.steps.length - 1;
  state.step = live ? "" : String(run.steps[row]);
  if (!wanted) requestAnimationFrame(drawFrame);
  wanted = true;
}

function play(on) {
  if (!context) return;
  playing = on ? requestAnimationFrame(advance) : cancelAnimationFrame(playing) || 0;
  $("play").textContent = on ? "\u275a\u275a" : "\u25b6";
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return;
  const start = live ? 0 : row;
  const began = performance.now();
  function advance(now) {
    const count = context.run.steps.length;
    const next = start + Math.floor((Math.max(now - began, 0) / PLAY) * count);
    if (next !== row) goTo(next);
    if (next >= count - 1) play(false);
    else playing = requestAnimationFrame(advance);
  }
}

function moveLayer(by) {
  const { selected } = context;
  const place = selected.indexOf(context.layer);
  const next = place < 0 ? (by > 0 ? 0 : selected.length - 1) : Math.min(Math.max(place + by, 0), selected.length - 1);
  change({ layer: context.run.layers[selected[next]].path });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { tagName, type } = event.target;
  if (event.key === "Escape" && tagName === "INPUT") event.target.blur();
  if (tagName === "SELECT" || (tagName === "INPUT" && type !== "range")) return;
  if (tagName === "BUTTON" && [" ", "Enter"].includes(event.key)) return;
  const view = Object.keys(VIEWS)[Number(event.key) - 1];
  const actions = {
    ArrowLeft: () => goTo(row - (event.shiftKey ? 10 : 1)),
    ArrowRight: () => goTo(row + (event.shiftKey ? 10 : 1)),
    Home: () => goTo(0),
    End: () => goTo(Infinity),
    ArrowUp: () => moveLayer(-1),
    ArrowDown: () => moveLayer(1),
    Escape: () => change({ layer: "" }),
    " ": () => play(!playing),
    "/": () => $("filter").focus(),
  };
  const action = view ? () => change({ view }) : actions[event.key];
  if (!action || !mainRun()) return;
  event.preventDefault();
  action();
}

// A line above an exported view: what it shows, and what the colours stand for.
function caption() {
  const { run, width, statistics } = context;
  const at = `step ${run.steps[row].toLocaleString("en")}`;
  const what = state.view === "runs" ? `All runs, at ${at} of ${run.label}` : `${VIEWS[state.view]} of ${run.label}, ${at}`;
  const text = `${what}; curves: ${curves.title(context)}`;
  const names = statistics.map((s) => `{${s}|\u25a0} ${data.labels[s]}`).join("   ");
  const legend = heading(look, names, undefined, 8, 11);
  legend.right = 12;
  legend.textStyle.rich = Object.fromEntries(statistics.map((s) => [s, { color: look.statistics[s], fontSize: 14 }]));
  const title = [heading(look, text, 12, 8), legend];
  return { option: { backgroundColor: look.ground, title }, width, height: 30 };
}

function exported() {
  const { width, height } = context;
  const option = views[state.view].option(context);
  const below = curves.option(context, true);
  return [
    caption(),
    { option, width, height },
    { option: below, width, height: $("curves").clientHeight },
  ];
}

function listen() {
  for (const id of ["run", "other", "stage", "kind", "published", "align"]) {
    $(id).addEventListener("change", () => change({ [id]: $(id).value }));
  }
  $("filter").addEventListener("input", () => change({ filter: $("filter").value }));
  $("step").addEventListener("input", () => goTo(Number($("step").value)));
  $("play").addEventListener("click", () => play(!playing));
  document.addEventListener("click", ({ target }) => {
    const { view, sort } = target.dataset;
    const layer = target.closest("[data-layer]")?.dataset.layer;
    if (view) change({ view });
    if (sort) change({ sort });
    if (layer) change({ layer: layer === state.layer ? "" : layer });
  });
  $("movers").addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.target.click();
  });
  charts[0].on("click", (params) => {
    const run = views[state.view].runAt?.(context, params);
    if (run) change({ run: run.name, step: live ? "" : String(run.steps[context.rowOf(run)]) });
    const layer = views[state.view].layerAt?.(context, params);
    if (layer !== undefined && layer !== null) {
      const { path } = context.run.layers[layer];
      change({ layer: path === state.layer ? "" : path });
    }
  });
  charts[1].getZr().on("click", ({ offsetX, offsetY }) => {
    const row = context && curves.rowAt(context, charts[1], [offsetX, offsetY]);
    if (row !== undefined) goTo(row);
  });
  document.addEventListener("keydown", onKey);
  const name = () => `norms-${state.view}-step${context.run.steps[row]}`;
  const exports = {
    png: () => savePng(name(), exported(), look.ground),
    svg: () => saveSvg(name(), exported(), look.ground),
    csv: () => saveCsv(name(), views[state.view].rows(context)),
  };
  for (const [id, action] of Object.entries(exports)) {
    $(id).addEventListener("click", () => context && $("message").hidden && action());
  }
  $("link").addEventListener("click", async () => {
    writeState();
    try {
      await navigator.clipboard.writeText(address());
      $("link").textContent = "Copied";
      setTimeout(() => ($("link").textContent = "Link"), 1500);
    } catch {
      prompt("The address of this view", address()); // browsers copy from https and localhost alone
    }
  });
  new ResizeObserver(() => context && draw()).observe($("view"));
  onTheme(() => setLook() || draw());
  onAddress(draw);
}

function setLook() {
  look = theme(data.colours);
  document.documentElement.classList.toggle("dark", look.dark);
}

async function ask() {
  let changed = false;
  try {
    changed = await poll();
    lost = "";
  } catch (error) {
    lost = error.message;
  }
  drawProblems();
  try {
    if (changed) {
      setLook();
      await draw();
    }
  } finally {
    setTimeout(ask, data.reading ? 500 : POLL);
  }
}

export async function render() {
  document.documentElement.lang = "en";
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet" });
  const styled = new Promise((done) => style.addEventListener("load", done));
  style.href = new URL("style.css", import.meta.url);
  document.head.append(style);
  document.body.innerHTML = PAGE;
  setLook();
  await styled;
  charts = [init($("view")), init($("curves"))];
  readState();
  listen();
  await ask();
}
