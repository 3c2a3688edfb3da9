// Stacked bars by depth, as in the paper, and the paper's own bars beside them on request.

import { axis, base, heading } from "./theme.js";
import {
  byDepth,
  cellSeries,
  depthAxis,
  escape,
  layerRows,
  layerSeries,
  shownText,
  stack,
  stageSeries,
} from "./panels.js";

const published = await (await fetch(new URL("published.json", import.meta.url))).json();
export const PUBLISHED = Object.keys(published.shares).sort((a, b) => b - a); // samples per GPU

function publishedShare(shares, kind, block, statistic) {
  const at = published.statistics.indexOf(statistic);
  const of = (name) => shares[name]?.[block][at];
  const share = kind === "both" ? (of("mean") + of("variance")) / 2 : of(kind);
  return Number.isNaN(share) ? undefined : share;
}

// Groups of bars beside each other: our layers, and on request our stages and the paper's blocks.
function groups(context) {
  const { places, spans } = byDepth(context.run, context.selected);
  const layers = {
    share: ({ run, row, kind }, place, s) => {
      const layer = places[place] === null ? undefined : context.layerIn(run, places[place]);
      return layer === undefined ? undefined : run.share(row, layer, kind, s);
    },
    bars: places.map((_, place) => place),
  };
  const shares = published.shares[context.state.published];
  if (!shares) return { places, spans, list: [layers] };
  const stages = [...new Set(spans.map(({ name }) => name))];
  const stageMeans = {
    title: "our stages",
    bars: stages,
    share: ({ run, row, kind }, stage, s) => {
      const members = context.selectedOf(run).filter((layer) => run.layers[layer].stage === stage);
      return run.mean(row, members, kind, s);
    },
  };
  const blocks = {
    source: published.source,
    title: `the paper, ${context.state.published} samples per GPU`,
    bars: published.blocks,
    share: ({ kind }, block, s) => publishedShare(shares, kind, published.blocks.indexOf(block), s),
  };
  return { places, spans, list: [layers, stageMeans, blocks] };
}

function series(context) {
  const { list } = groups(context);
  const { panels } = stack(context);
  const { statistics, look } = context;
  return panels.flatMap((panel, p) =>
    list.map((group, g) => {
      const cells = (place) => {
        let bottom = 0;
        return statistics.flatMap((s) => {
          const share = group.share(panel, group.bars[place], s);
          if (!(share > 0)) return [];
          bottom += share;
          return [{ bottom: bottom - share, top: bottom, colour: look.statistics[s] }];
        });
      };
      return cellSeries(`bars${p}-${g}`, p * list.length + g, group.bars.length, cells, { line: 0 });
    }),
  );
}

// The shares of a stage or of a block of the paper, under the pointer.
function sideSeries(context, panels, list) {
  const { look, statistics, labels } = context;
  return list.slice(1).flatMap((group, g) =>
    panels.map((panel, p) => ({
      id: `side${p}-${g}`,
      type: "custom",
      xAxisIndex: p * list.length + g + 1,
      yAxisIndex: p * list.length + g + 1,
      z: 10,
      data: group.bars.map((_, place) => [place, 1]),
      renderItem(_, api) {
        const [x, y] = api.coord([api.value(0), 1]);
        const [width, height] = api.size([1, 1]);
        return {
          type: "rect",
          shape: { x: x - width / 2, y, width, height },
          style: { fill: "transparent", stroke: look.accent, lineWidth: 1, opacity: 0 },
          emphasis: { style: { opacity: 1 } },
        };
      },
      tooltip: {
        formatter({ dataIndex }) {
          const now = { ...panel, row: context.rowOf(panel.run) };
          const bar = group.bars[dataIndex];
          const shares = statistics.map((s) => `${labels[s]} ${(group.share(now, bar, s) ?? 0).toFixed(2)}`);
          return `<b>${escape(bar)}</b> ${shares.join(", ")}${group.source ? `<br>${group.source}` : ""}`;
        },
      },
    })),
  );
}

export const bars = {
  option(context) {
    const { look } = context;
    const { places, spans, list } = groups(context);
    const inner = list.length > 1 ? context.width * 0.52 : context.width;
    const { panels, named } = stack({ ...context, width: inner });
    const side = (context.width - inner) / 2;
    const cells = panels.flatMap((panel, p) => list.map((group, g) => ({ panel, group, p, g })));
    const titles = list
      .slice(1)
      .map((group, g) => heading(look, group.title, inner + g * side + 8, panels[0].grid.top - 17));
    return {
      ...base(look),
      title: [...panels.map((panel) => panel.title), ...titles],
      grid: cells.map(({ panel, g }) =>
        g === 0
          ? { ...panel.grid, right: context.width - inner + 24 }
          : { ...panel.grid, left: inner + (g - 1) * side + 8, right: undefined, width: side - 28 },
      ),
      xAxis: cells.map(({ group, p, g }, index) => {
        const isLast = p === panels.length - 1;
        if (g === 0) return depthAxis(context, places, named, isLast, index);
        const axisLabel = { show: isLast, rotate: 90, fontSize: 10, hideOverlap: false, interval: 0 };
        return axis(look, { type: "category", gridIndex: index, data: group.bars, axisLabel });
      }),
      yAxis: cells.map(({ g }, gridIndex) =>
        axis(look, {
          type: "value",
          gridIndex,
          min: 0,
          max: 1,
          interval: 0.5,
          splitLine: { show: g === 0, lineStyle: { color: look.line } },
          axisLabel: { show: g === 0 },
        }),
      ),
      series: [
        ...series(context),
        stageSeries(context, spans, panels[0].grid),
        layerSeries(context, places, panels, (layer) => shownText(context, layer)),
        ...sideSeries(context, panels, list),
      ],
    };
  },
  frame: (context) => ({ series: series(context) }),
  layerAt: (context, { seriesId, value }) =>
    seriesId === "layers" ? byDepth(context.run, context.selected).places[value[0]] : undefined,
  rows: layerRows,
};
