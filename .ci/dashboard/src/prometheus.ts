import {
  createDataFrame,
  DataFrame,
  FieldType,
  formatLabels,
  Labels,
  rangeUtil,
  renderLegendFormat,
  TimeRange,
} from '@grafana/data';
import { Target } from './model';

// Grafana's own data source is under another licence, so this is ours. It asks as
// that one does: the step follows from the width, $__rate_interval from the step.

interface Series {
  metric: Labels;
  values: Array<[number, string]>;
}

async function api<T>(path: string, params: Record<string, string>): Promise<T> {
  const answer = await fetch(`/api/v1/${path}?${new URLSearchParams(params)}`);
  const { status, error, data } = await answer.json();
  if (status !== 'success') {
    throw new Error(`${JSON.stringify(params)}: ${error}`);
  }
  return data;
}

// range asks for an expression over time, with about a point a pixel.
export async function range(expr: string, over: TimeRange, width: number, scrape: number) {
  const { intervalMs } = rangeUtil.calculateInterval(over, width, `${scrape}s`);
  const step = intervalMs / 1000;
  const seconds = (t: number) => Math.floor(t / intervalMs) * step;
  const data = await api<{ result: Series[] }>('query_range', {
    query: expr.replaceAll('$__rate_interval', `${Math.max(step + scrape, 4 * scrape)}s`),
    start: `${seconds(over.from.valueOf())}`,
    end: `${seconds(over.to.valueOf())}`,
    step: `${step}`,
  });
  return { series: data.result, intervalMs };
}

export async function frames(target: Target, over: TimeRange, width: number, scrape: number): Promise<DataFrame[]> {
  const { series, intervalMs } = await range(target.expr, over, width, scrape);
  return series.map(({ metric, values }) =>
    createDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, config: { interval: intervalMs }, values: values.map(([t]) => t * 1000) },
        {
          name: 'Value',
          type: FieldType.number,
          labels: metric,
          config: { displayNameFromDS: target.legendFormat ? renderLegendFormat(target.legendFormat, metric) : formatLabels(metric) },
          // A quantile of nothing is NaN, which is nothing to draw.
          values: values.map(([, v]) => (Number.isFinite(Number(v)) ? Number(v) : null)),
        },
      ],
    })
  );
}

// labelValues answers what a variable asks: label_values(SERIES, LABEL).
export async function labelValues(definition: string, over: TimeRange): Promise<string[]> {
  const asked = /^label_values\((.*), *(\w+)\)$/.exec(definition);
  if (!asked) {
    throw new Error(`not understood: ${definition}`);
  }
  return api<string[]>(`label/${asked[2]}/values`, {
    'match[]': asked[1],
    start: `${over.from.valueOf() / 1000}`,
    end: `${over.to.valueOf() / 1000}`,
  });
}
