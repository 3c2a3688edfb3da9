// The one state of the page. It lives in the address of TensorBoard, so that a view can be sent:
// http://localhost:6006/#norms&p.norms.view=simplex&p.norms.step=780

const PREFIX = "p.norms.";
const DEFAULTS = {
  view: "map", // one of VIEWS
  run: "", // the run that is shown; "" is the first
  other: "", // a run to compare it with; "" is none
  step: "", // the step that is shown; "" is the newest, also of a run that still trains
  layer: "", // the layer whose curves are shown; "" is the mean over the selected layers
  stage: "", // the selected stage; "" is all
  filter: "", // a regular expression for the selected layers
  kind: "", // mean, variance or both; "" is all
  published: "", // samples per GPU of the published bars beside ours; "" is none
  sort: "moved", // what the list of layers is sorted by: moved, entropy or depth
  align: "progress", // other runs are shown at the same progress or at the same step
};
export const VIEWS = { map: "Map", simplex: "Simplex", bars: "Bars", runs: "Runs", gates: "Gates" };
export const state = { ...DEFAULTS };

// TensorBoard shows the page in a frame; the address is that of the window around it.
function outer() {
  try {
    return window.parent.location.hash === undefined ? window : window.parent;
  } catch {
    return window; // the frame of another origin
  }
}

function entries() {
  return outer().location.hash.slice(1).split("&").filter(Boolean);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that somebody typed
  }
}

export function readState() {
  Object.assign(state, DEFAULTS);
  for (const entry of entries()) {
    const [key, value = ""] = entry.split("=");
    const name = key.slice(PREFIX.length);
    if (key.startsWith(PREFIX) && Object.hasOwn(DEFAULTS, name)) state[name] = decode(value);
  }
  if (!Object.hasOwn(VIEWS, state.view)) state.view = DEFAULTS.view;
}

export function writeState() {
  const others = entries().filter((entry) => !entry.startsWith(PREFIX));
  if (outer() !== window && others[0] !== "norms") return; // another tab is shown
  const own = Object.keys(DEFAULTS)
    .filter((name) => state[name] !== DEFAULTS[name])
    .map((name) => `${PREFIX}${name}=${encodeURIComponent(state[name])}`);
  const hash = `#${[...others, ...own].join("&")}`;
  if (hash !== outer().location.hash) {
    outer().history.replaceState(outer().history.state, "", hash);
  }
}

// Calls back when somebody else changes the address: a link, or the button "back".
export function onAddress(callback) {
  outer().addEventListener("hashchange", () => {
    const others = entries().filter((entry) => !entry.startsWith(PREFIX));
    if (outer() !== window && others[0] !== "norms") return;
    if (entries().some((entry) => entry.startsWith(PREFIX))) readState();
    else writeState();
    callback();
  });
}

export const address = () => outer().location.href;
