// The view as a file: PNG, SVG or CSV.

import { init } from "./vendor/echarts.js";

function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// {option, width, height} of the charts below each other as one SVG.
function svgOf(charts, ground) {
  const width = Math.max(...charts.map((chart) => chart.width));
  let height = 0;
  const parts = charts.map((part) => {
    const chart = init(null, null, { renderer: "svg", ssr: true, width: part.width, height: part.height });
    chart.setOption(part.option);
    const text = chart.renderToSVGString().replace("<svg ", `<svg y="${height}" `);
    chart.dispose();
    height += part.height;
    return text;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">` +
    `<rect width="100%" height="100%" fill="${ground}"/>${parts.join("")}</svg>`
  );
}

export const saveSvg = (name, charts, ground) => save(`${name}.svg`, svgOf(charts, ground), "image/svg+xml");

export async function savePng(name, charts, ground) {
  const scale = 2; // for print and sharp screens
  const canvas = document.createElement("canvas");
  canvas.width = scale * Math.max(...charts.map((chart) => chart.width));
  canvas.height = scale * charts.reduce((sum, chart) => sum + chart.height, 0);
  const painter = canvas.getContext("2d");
  painter.fillStyle = ground;
  painter.fillRect(0, 0, canvas.width, canvas.height);
  let top = 0;
  for (const part of charts) {
    const { width, height } = part;
    const chart = init(document.createElement("div"), null, { width, height, devicePixelRatio: scale });
    chart.setOption(part.option);
    painter.drawImage(chart.renderToCanvas({ pixelRatio: scale }), 0, top);
    chart.dispose();
    top += scale * part.height;
  }
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  save(`${name}.png`, blob, "image/png");
}

export function saveCsv(name, rows) {
  const cell = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value);
  save(`${name}.csv`, rows.map((row) => row.map(cell).join(",")).join("\n") + "\n", "text/csv");
}
