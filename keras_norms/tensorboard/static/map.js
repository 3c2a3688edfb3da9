// The heat map: a column for each layer, by depth, a row for each statistic.

import { axis, base, level, levels, scale } from "./theme.js";
import { byDepth, cellSeries, depthAxis, layerRows, layerSeries, shownText, stack, stageSeries } from "./panels.js";

const RIGHT = 66;

function series(context) {
  const { places } = byDepth(context.run, context.selected);
  const { panels } = stack(context, { right: RIGHT });
  const used = [...context.statistics].reverse();
  const colours = levels(context.look.shares);
  return panels.map(({ run, row, kind }, index) => {
    const cells = (place) => {
      const layer = places[place] === null ? undefined : context.layerIn(run, places[place]);
      if (layer === undefined) return [];
      return used.flatMap((s, y) => {
        const share = run.share(row, layer, kind, s);
        return share === undefined ? [] : [{ bottom: y - 0.5, top: y + 0.5, colour: level(colours, share) }];
      });
    };
    return cellSeries(`cells${index}`, index, places.length, cells, { gap: 0.01 });
  });
}

// The shares as numbers, where there is room.
function numbers(context) {
  const { places } = byDepth(context.run, context.selected);
  const { panels, pitch } = stack(context, { right: RIGHT });
  const used = [...context.statistics].reverse();
  if (pitch < 24 || panels[0].grid.height / used.length < 13) return [];
  return panels.map(({ run, row, kind }, index) => {
    const data = places.flatMap((place, x) =>
      place === null
        ? []
        : used.flatMap((s, y) => {
            const layer = context.layerIn(run, place);
            const share = layer === undefined ? undefined : run.share(row, layer, kind, s);
            return share === undefined ? [] : [[x, y, share]];
          }),
    );
    return {
      id: `numbers${index}`,
      type: "custom",
      xAxisIndex: index,
      yAxisIndex: index,
      silent: true,
      z: 4,
      data,
      renderItem(_, api) {
        const [x, y] = api.coord([api.value(0), api.value(1)]);
        const share = api.value(2);
        const bright = context.look.dark ? share < 0.55 : share > 0.6;
        const text = Number.isNaN(share) ? "NaN" : share.toFixed(2).replace(/^0/, "");
        const style = { text, x, y, align: "center", verticalAlign: "middle", fill: bright ? "#fff" : "#111" };
        return { type: "text", style: { ...style, font: "10.5px Roboto, sans-serif" } };
      },
    };
  });
}

export const map = {
  option(context) {
    const { look } = context;
    const { places, spans } = byDepth(context.run, context.selected);
    const { panels, named } = stack(context, { right: RIGHT });
    const labels = [...context.statistics].reverse().map((s) => context.labels[s]);
    return {
      ...base(look),
      title: panels.map((panel) => panel.title),
      grid: panels.map((panel) => panel.grid),
      xAxis: panels.map((_, i) => depthAxis(context, places, named, i === panels.length - 1, i)),
      yAxis: panels.map((_, gridIndex) => axis(look, { type: "category", gridIndex, data: labels })),
      visualMap: scale(look, {
        inRange: { color: look.shares },
        right: 12,
        top: panels[0].grid.top - 8,
        itemHeight: Math.min(180, context.height - 160),
        text: ["1", "0"],
        textGap: 5,
      }),
      series: [
        ...series(context),
        ...numbers(context),
        stageSeries(context, spans, panels[0].grid),
        layerSeries(context, places, panels, (layer) => shownText(context, layer)),
      ],
    };
  },
  frame: (context) => ({ series: [...series(context), ...numbers(context)] }),
  layerAt: (context, { seriesId, value }) =>
    seriesId === "layers" ? byDepth(context.run, context.selected).places[value[0]] : undefined,
  rows: layerRows,
};
