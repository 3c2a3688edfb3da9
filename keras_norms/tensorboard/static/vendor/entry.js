// The parts of Apache ECharts that the page uses. To bundle them anew, in an empty folder:
//   npm install echarts@6.1.0 esbuild@0.28.2
//   npx esbuild entry.js --bundle --minify --format=esm --legal-comments=none --target=es2020 \
//     --define:process.env.NODE_ENV=\"production\" --outfile=echarts.js
export { init, use, getInstanceByDom } from "echarts/core";
import { use } from "echarts/core";
import { BarChart, CustomChart, HeatmapChart, LineChart, LinesChart, ScatterChart } from "echarts/charts";
import { GridComponent, MarkLineComponent, TitleComponent, TooltipComponent, VisualMapComponent } from "echarts/components";
import { CanvasRenderer, SVGRenderer } from "echarts/renderers";
use([BarChart, CustomChart, HeatmapChart, LineChart, LinesChart, ScatterChart, GridComponent, MarkLineComponent, TitleComponent, TooltipComponent, VisualMapComponent, CanvasRenderer, SVGRenderer]);
