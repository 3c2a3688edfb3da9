// Colours and fonts, light and dark, and what all charts share.

// On a dark ground the colours of keras_norms.figures are too dark. These are Paul Tol's
// medium-contrast light ones; colour-blind readers can tell them apart too.
const DARK = { instance: "#eecc66", group: "#dddddd", layer: "#ee99aa", batch: "#6699cc" };
const SHARES = {
  light: ["#ffffd9", "#c7e9b4", "#41b6c4", "#225ea8", "#081d58"], // YlGnBu
  dark: ["#00224e", "#434e6c", "#7d7c78", "#bbae6d", "#fee838"], // cividis
};
const DEPTH = {
  light: ["#fde725", "#7ad151", "#22a884", "#2a788e", "#414487", "#440154"].reverse(), // viridis
  dark: ["#6b4fb3", "#4a6fd0", "#2a9d9e", "#22b884", "#7ad151", "#fde725"],
};

export function isDark() {
  try {
    return window.parent.document.body.classList.contains("dark-mode");
  } catch {
    return matchMedia("(prefers-color-scheme: dark)").matches;
  }
}

export function onTheme(callback) {
  try {
    const options = { attributes: true, attributeFilter: ["class"] };
    new MutationObserver(callback).observe(window.parent.document.body, options);
  } catch {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
  }
}

export function theme(colours) {
  const mode = isDark() ? "dark" : "light";
  const dark = mode === "dark";
  return {
    dark,
    statistics: dark ? DARK : colours,
    shares: SHARES[mode],
    depth: DEPTH[mode],
    ink: dark ? "#e8e8e8" : "#212121",
    faint: dark ? "#a8a8a8" : "#616161",
    line: dark ? "#5c5c5c" : "#d5d5d5",
    ground: dark ? "#303030" : "#ffffff",
    accent: dark ? "#ffb74d" : "#c75a00", // that of TensorBoard, dark enough to read
  };
}

// The colour at a place in [0, 1] of a list of colours.
export function between(stops, place) {
  const at = Math.min(Math.max(place, 0), 1) * (stops.length - 1);
  const first = Math.min(Math.floor(at), stops.length - 2);
  const channel = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mix = (i) =>
    Math.round(channel(stops[first], i) + (at - first) * (channel(stops[first + 1], i) - channel(stops[first], i)));
  return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
}

export const FONT = "Roboto, 'Helvetica Neue', Arial, sans-serif";

// A list of colours for shares from 0 to 1; few enough to be drawn in one go each.
export const LEVELS = 64;
export const levels = (stops) => Array.from({ length: LEVELS }, (_, i) => between(stops, i / (LEVELS - 1)));
export const level = (colours, share) =>
  Number.isNaN(share) ? "#d32f2f" : colours[Math.round(Math.min(Math.max(share, 0), 1) * (LEVELS - 1))];

// A bar that says what the colours stand for.
export const scale = (look, more) => ({
  type: "continuous",
  min: 0,
  max: 1,
  seriesIndex: [],
  hoverLink: false,
  itemWidth: 12,
  textStyle: { color: look.faint, fontSize: 11 },
  ...more,
});

// What every option begins with.
export function base(look) {
  return {
    animation: false,
    backgroundColor: look.ground,
    textStyle: { fontFamily: FONT, color: look.ink },
    tooltip: {
      confine: true,
      backgroundColor: look.ground,
      borderColor: look.line,
      padding: [6, 9],
      textStyle: { color: look.ink, fontSize: 12, fontFamily: FONT },
      transitionDuration: 0,
    },
  };
}

export const heading = (look, text, left, top, size = 12) => ({
  text,
  left,
  top,
  padding: 0,
  textStyle: { color: look.ink, fontSize: size, fontWeight: 500, fontFamily: FONT },
});

export const axis = (look, more = {}) => ({
  axisLine: { show: false, lineStyle: { color: look.line } },
  axisTick: { show: false },
  splitLine: { show: false, lineStyle: { color: look.line, opacity: 0.6 } },
  ...more,
  axisLabel: { color: look.faint, fontSize: 11, hideOverlap: true, ...more.axisLabel },
});
