// The heat map: a column for each layer, by depth, a row for each statistic.

import { axis, base } from "./theme.js";
import { byDepth, chosenSeries, depthAxis, layerRows, layerText, stack, stageSeries } from "./panels.js";

const RIGHT = 66;

function cells(context, { run, row, kind }, places) {
  const used = context.statistics;
  const points = [];
  for (let place = 0; place < places.length; place++) {
    if (places[place] === null) continue;
    const layer = context.layerIn(run, places[place]);
    if (layer === undefined) continue;
    for (let y = 0; y < used.length; y++) {
      const share = run.share(row, layer, kind, used[y]);
      if (share !== undefined) points.push([place, used.length - 1 - y, share]);
    }
  }
  return points;
}

function series(context) {
  const { places } = byDepth(context.run, context.selected);
  const { panels } = stack(context, { right: RIGHT });
  return panels.map((panel, index) => ({ id: `map${index}`, data: cells(context, panel, places) }));
}

export const map = {
  option(context) {
    const { look } = context;
    const { places, spans } = byDepth(context.run, context.selected);
    const { panels, pitch, named } = stack(context, { right: RIGHT });
    const used = [...context.statistics].reverse();
    const numbers = pitch >= 24 && panels[0].grid.height / used.length >= 13;
    return {
      ...base(look),
      title: panels.map((panel) => panel.title),
      grid: panels.map((panel) => panel.grid),
      xAxis: panels.map((_, i) => depthAxis(context, places, named, i === panels.length - 1, i)),
      yAxis: panels.map((_, gridIndex) =>
        axis(look, { type: "category", gridIndex, data: used.map((s) => context.labels[s]) }),
      ),
      visualMap: {
        min: 0,
        max: 1,
        calculable: false,
        dimension: 2,
        seriesIndex: panels.map((_, index) => index),
        inRange: { color: look.shares },
        right: 12,
        top: panels[0].grid.top - 8,
        itemWidth: 12,
        itemHeight: Math.min(180, context.height - 160),
        text: ["1", "0"],
        textGap: 5,
        textStyle: { color: look.faint, fontSize: 11 },
        hoverLink: false,
      },
      series: [
        ...series(context).map((one, index) => ({
          ...one,
          type: "heatmap",
          xAxisIndex: index,
          yAxisIndex: index,
          progressive: 0,
          itemStyle: { borderColor: look.ground, borderWidth: pitch >= 6 ? 1 : 0 },
          emphasis: { itemStyle: { borderColor: look.accent, borderWidth: 2 } },
          label: {
            show: numbers,
            fontSize: 10,
            formatter: ({ value }) => value[2].toFixed(2).replace(/^0/, ""),
          },
          tooltip: {
            formatter: ({ value }) => {
              const { run, row } = panels[index];
              return layerText(context, run, context.liveRow(run) ?? row, context.layerIn(run, places[value[0]]));
            },
          },
        })),
        stageSeries(context, spans, panels[0].grid),
        chosenSeries(context, places, panels),
      ],
    };
  },
  frame: (context) => ({ series: series(context) }),
  layerAt: (context, { value }) => byDepth(context.run, context.selected).places[value[0]],
  rows: layerRows,
};
