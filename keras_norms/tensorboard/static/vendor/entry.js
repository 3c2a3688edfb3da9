// The parts of Apache ECharts that the page uses. To bundle them anew, in an empty folder:
//   npm install echarts@6.1.0 esbuild@0.28.2
//   npx esbuild entry.js --bundle --minify --format=esm --legal-comments=none --target=es2020 \
//     --define:process.env.NODE_ENV='"production"' --outfile=echarts.js
export { graphic, init } from "echarts/core";
import { use } from "echarts/core";
import { BarChart, CustomChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, MarkLineComponent, TitleComponent, TooltipComponent, VisualMapContinuousComponent } from "echarts/components";
import { CanvasRenderer, SVGRenderer } from "echarts/renderers";

use([
  BarChart,
  CustomChart,
  LineChart,
  ScatterChart,
  GridComponent,
  MarkLineComponent,
  TitleComponent,
  TooltipComponent,
  VisualMapContinuousComponent,
  CanvasRenderer,
  SVGRenderer,
]);
