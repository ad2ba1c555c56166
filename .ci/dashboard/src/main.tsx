import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import {
  applyFieldOverrides,
  createTheme,
  DataFrame,
  dateTime,
  Field,
  FieldConfigOptionsRegistry,
  FieldConfigPropertyItem,
  FieldType,
  getDisplayValueAlignmentFactors,
  getFieldDisplayName,
  getFieldDisplayValues,
  ThemeContext,
  TimeRange,
  VizOrientation,
} from '@grafana/data';
import {
  BigValue,
  GlobalStyles,
  InlineField,
  Input,
  PanelChrome,
  TimeRangeLabel,
  TimeSeries,
  ToolbarButton,
  UPlotConfigBuilder,
  VizRepeater,
} from '@grafana/ui';
import { ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import { Annotation, Dashboard, Panel, StatPanel, TimeSeriesPanel, Variable } from './model';
import { frames, labelValues, range } from './prometheus';

// Of the grid: Grafana's.
const columns = 24;
const rowHeight = 30;
const gap = 8;
const margin = 16;

const theme = createTheme({ colors: { mode: 'dark' } });

// drawn is what a test reads: what was handed to the components.
interface Drawn {
  variables: Record<string, string[]>;
  panels: Array<{ title: string; series: Record<string, Array<number | null>>; text: string }>;
  annotations: Array<{ name: string; at: number[] }>;
}

declare global {
  interface Window {
    drawn?: Drawn; // once all of it is on the page
    failed?: string;
  }
}

const failed = (error: unknown) => (window.failed ??= String(error));

// registry makes all that a panel sets known to applyFieldOverrides. Grafana's has
// an editor for each, and checks nothing more.
function registry({ defaults, overrides }: Panel['fieldConfig']) {
  const ids = new Set([
    ...Object.keys(defaults).filter((key) => key !== 'custom'),
    ...Object.keys(defaults.custom ?? {}).map((key) => `custom.${key}`),
    ...overrides.flatMap((o) => o.properties.map((p) => p.id)),
  ]);
  return new FieldConfigOptionsRegistry(() =>
    [...ids].map((id): FieldConfigPropertyItem => {
      const isCustom = id.startsWith('custom.');
      const path = isCustom ? id.slice('custom.'.length) : id;
      const editor = () => null;
      // What a panel adds is for the curves, not for their times.
      const shouldApply = (field: Field) => !isCustom || field.type !== FieldType.time;
      return { id, path, name: id, isCustom, editor, override: editor, process: (v) => v, shouldApply };
    })
  );
}

function Stat({ panel, data, width, height, timeZone }: PanelProps<StatPanel>) {
  const { reduceOptions, ...look } = panel.options;
  return (
    <VizRepeater
      source={data}
      renderCounter={0}
      orientation={VizOrientation.Auto}
      autoGrid
      width={width}
      height={height}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      getValues={() =>
        getFieldDisplayValues({ data, reduceOptions, fieldConfig: panel.fieldConfig, replaceVariables: (v) => v, theme, timeZone })
      }
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue {...look} {...{ width, height, count, alignmentFactors, theme }} value={value.display} />
      )}
    />
  );
}

// mark draws a line where something happened. A chart without a scale is blank,
// whatever its data.
function mark(builder: UPlotConfigBuilder, title: string, marks: Marks[]) {
  builder.addHook('draw', ({ ctx, bbox, axes, scales, valToPos }) => {
    const ranges = axes.map((axis) => scales[axis.scale!]);
    if (ranges.some(({ min, max }) => !Number.isFinite(min) || !Number.isFinite(max))) {
      failed(`${title} is blank`);
    }
    for (const { colour, at } of marks) {
      ctx.save();
      ctx.strokeStyle = colour;
      ctx.setLineDash([5, 5]);
      for (const t of at) {
        const x = valToPos(t, 'x', true);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    }
  });
}

interface Marks {
  name: string;
  colour: string;
  at: number[];
}

interface PanelProps<P> {
  panel: P;
  data: DataFrame[];
  marks: Marks[];
  over: TimeRange;
  timeZone: string;
  width: number;
  height: number;
}

function Chart({ panel, data, marks, over, timeZone, width, height }: PanelProps<TimeSeriesPanel>) {
  return (
    <TimeSeries frames={data} timeRange={over} legend={panel.options.legend} {...{ timeZone, width, height }}>
      {(builder) => {
        mark(builder, panel.title, marks);
        return null;
      }}
    </TimeSeries>
  );
}

function Body(props: PanelProps<Panel>): ReactNode {
  const { panel, data } = props;
  if (data.length === 0) {
    return <div className="no-data">{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
  }
  switch (panel.type) {
    case 'stat':
      return <Stat {...props} panel={panel} />;
    case 'timeseries':
      return <Chart {...props} panel={panel} />;
    default:
      throw new Error(`a panel of the type ${(panel as { type: string }).type} is not drawn here`);
  }
}

function size({ gridPos }: Panel, total: number) {
  const column = (total - gap * (columns - 1)) / columns;
  return { width: gridPos.w * (column + gap) - gap, height: gridPos.h * (rowHeight + gap) - gap };
}

interface ViewProps {
  dashboard: Dashboard;
  data: DataFrame[][];
  marks: Marks[];
  over: TimeRange;
  total: number;
}

function View({ dashboard, data, marks, over, total }: ViewProps) {
  const timeZone = dashboard.timezone;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <style>{`
        body { background: ${theme.colors.background.canvas} }
        #dashboard { padding: ${margin}px }
        header { display: flex; align-items: center; gap: ${gap}px; margin-bottom: ${gap}px }
        header h1 { margin: 0 auto 0 0; font-size: 20px }
        main { display: grid; gap: ${gap}px; grid: auto-flow ${rowHeight}px / repeat(${columns}, 1fr) }
        .no-data { display: grid; place-items: center; height: 100%; color: ${theme.colors.text.secondary} }
      `}</style>
      <header>
        <h1>{dashboard.title}</h1>
        {dashboard.templating.list.map((v) => (
          <InlineField key={v.name} label={v.label}>
            <Input readOnly width={16} value={v.current.text?.join() ?? 'Prometheus'} />
          </InlineField>
        ))}
        <ToolbarButton icon="clock-nine">
          <TimeRangeLabel value={over} timeZone={timeZone} />
        </ToolbarButton>
      </header>
      <main>
        {dashboard.panels.map((panel, i) => {
          const { x, y, w, h } = panel.gridPos;
          return (
            <div key={panel.id} data-panel={panel.title} style={{ gridArea: `${y + 1} / ${x + 1} / span ${h} / span ${w}` }}>
              <PanelChrome title={panel.title} description={panel.description} {...size(panel, total)}>
                {(width: number, height: number) => <Body data={data[i]} {...{ panel, marks, over, timeZone, width, height }} />}
              </PanelChrome>
            </div>
          );
        })}
      </main>
    </ThemeContext.Provider>
  );
}

// substitute puts the values of variables in: of those that include all, all.
function substitute(text: string, variables: Variable[]) {
  return variables.reduce((text, v) => text.replaceAll(`$${v.name}`, v.allValue ?? ''), text);
}

async function draw() {
  const params = new URLSearchParams(location.search);
  const [from, to] = [dateTime(Number(params.get('from'))), dateTime(Number(params.get('to')))];
  const scrape = Number(params.get('scrape')); // the interval that the data source is told of, in seconds
  const over = { from, to, raw: { from, to } };
  const dashboard: Dashboard = await (await fetch('/dashboard.json')).json();
  const total = document.documentElement.clientWidth - 2 * margin;
  const list = dashboard.templating.list;

  const variables: Drawn['variables'] = {};
  for (const v of list.filter((v) => v.type === 'query')) {
    variables[v.name] = await labelValues(substitute(v.definition!, list), over);
  }
  const marks = await Promise.all(
    dashboard.annotations.list.filter((a) => a.enable).map((a) => happened(a, list, over))
  );
  const data = await Promise.all(
    dashboard.panels.map(async (panel) => {
      const { width } = size(panel, total);
      const answers = await Promise.all(
        panel.targets.map((t) => frames({ ...t, expr: substitute(t.expr, list) }, over, Math.floor(width), scrape))
      );
      return applyFieldOverrides({
        data: answers.flat(),
        fieldConfig: panel.fieldConfig,
        fieldConfigRegistry: registry(panel.fieldConfig),
        replaceVariables: (v) => v,
        theme,
        timeZone: dashboard.timezone,
      });
    })
  );

  // A canvas does not wait for its font.
  await Promise.all(['12px Inter', '500 12px Inter'].map((font) => document.fonts.load(font)));
  createRoot(document.getElementById('dashboard')!, { onUncaughtError: failed, onCaughtError: failed }).render(
    <View {...{ dashboard, data, marks, over, total }} />
  );
  await new Promise((done) => setTimeout(done, 1000)); // the icons are fetched one by one
  window.drawn = {
    variables,
    annotations: marks,
    panels: dashboard.panels.map(({ title }, i) => ({
      title,
      series: Object.fromEntries(data[i].map((f) => [getFieldDisplayName(f.fields[1], f, data[i]), f.fields[1].values])),
      text: document.querySelector<HTMLElement>(`[data-panel=${JSON.stringify(title)}]`)!.innerText,
    })),
  };
}

// happened is when an annotation's expression began to hold: of values that are at
// most a minute apart Grafana makes one region, whose begin is marked here.
async function happened({ name, expr, iconColor }: Annotation, list: Variable[], over: TimeRange): Promise<Marks> {
  const { series } = await range(substitute(expr, list), over, over.to.diff(over.from) / 1000, 1);
  const times = series.flatMap((s) => s.values.map(([t]) => t * 1000)).sort((a, b) => a - b);
  const at = times.filter((t, i) => i === 0 || t - times[i - 1] > 60_000);
  return { name, colour: theme.visualization.getColorByName(iconColor), at };
}

draw().catch(failed);
