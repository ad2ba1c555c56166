import { FieldConfigSource, ReduceDataOptions } from '@grafana/data';
import { VizLegendOptions } from '@grafana/schema';
import { BigValueColorMode, BigValueGraphMode, BigValueTextMode } from '@grafana/ui';

// What of a dashboard is drawn here.
export interface Dashboard {
  title: string;
  timezone: string;
  templating: { list: Variable[] };
  annotations: { list: Annotation[] };
  panels: Panel[];
}

export interface Variable {
  name: string;
  label: string;
  type: 'datasource' | 'query';
  definition?: string;
  allValue?: string;
  current: { text?: string[] };
}

export interface Annotation {
  name: string;
  enable: boolean;
  expr: string;
  iconColor: string;
}

export interface Target {
  refId: string;
  expr: string;
  legendFormat: string;
}

interface Common {
  id: number;
  title: string;
  description: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets: Target[];
  fieldConfig: FieldConfigSource;
}

export interface StatPanel extends Common {
  type: 'stat';
  options: {
    colorMode: BigValueColorMode;
    graphMode: BigValueGraphMode;
    textMode: BigValueTextMode;
    reduceOptions: ReduceDataOptions;
  };
}

export interface TimeSeriesPanel extends Common {
  type: 'timeseries';
  options: { legend: VizLegendOptions };
}

export type Panel = StatPanel | TimeSeriesPanel;
