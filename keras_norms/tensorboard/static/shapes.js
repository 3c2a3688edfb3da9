// Shapes that hold many parts of one colour, so that thousands of them are drawn in one go.

import { graphic } from "./vendor/echarts.js";

const builders = {
  // [x, y, width, height, ...]
  boxes(path, parts) {
    for (let i = 0; i < parts.length; i += 4) path.rect(parts[i], parts[i + 1], parts[i + 2], parts[i + 3]);
  },
  // [[[x, y], ...], ...]
  lines(path, parts) {
    for (const line of parts) line.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  },
  // [[x, y, radius], ...]
  discs(path, parts) {
    for (const [x, y, radius] of parts) {
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 2 * Math.PI);
    }
  },
};

for (const [type, build] of Object.entries(builders)) {
  const shape = graphic.extendShape({ shape: { parts: [] }, buildPath: (path, { parts }) => build(path, parts) });
  graphic.registerShape(`norms-${type}`, shape);
}

// A group for `renderItem`: `byColour` is {colour: parts}, `style` is what all have in common.
export function shapes(type, byColour, style = {}) {
  const paint = type === "lines" ? (colour) => ({ fill: "none", stroke: colour }) : (colour) => ({ fill: colour });
  const children = [...byColour].map(([colour, parts]) => ({
    type: `norms-${type}`,
    shape: { parts },
    style: { ...paint(colour), ...style },
  }));
  return { type: "group", children };
}
