# Lines that do not match stay in without fields, hence the filter; nothing may follow the last star.

locals {
  metrics_query = <<-EOT
    fields @timestamp
    | filter @message like /METRICS:/
    | parse @message "records_processed=*, duplicates_removed=*, output_files=*, duration_seconds=*" as records, duplicates, files, duration
    | display @timestamp, records, duplicates, files, duration
    | sort @timestamp desc
    | limit 100
  EOT
}

locals {
  totals_query = <<-EOT
    fields @timestamp
    | filter @message like /TOTAL: day=/
    | parse @message "TOTAL: day=*, sum=*, value=*, before=*, landed=*, after=*, duplicates=*, quarantined=*" as day, sum, value, before, landed, after, duplicates, quarantined
    | display day, sum, value, before, landed, after, duplicates, quarantined, @timestamp
    | sort @timestamp desc
    | limit 100
  EOT
  log_tables = concat(
    [{ title = "Runs", query = local.metrics_query }],
    length(var.control_totals) > 0 ? [{ title = "Control totals: before + landed = after + duplicates + quarantined", query = local.totals_query }] : [],
  )
}

resource "aws_cloudwatch_query_definition" "metrics" {
  name            = "${var.name}/METRICS"
  log_group_names = [aws_cloudwatch_log_group.job[local.is_glue_5 ? "output" : "continuous"].name]
  query_string    = local.metrics_query
}

locals {
  charts = [
    { title = "Records and duplicates of a run", stat = "Sum", metrics = ["RecordsProcessed", "DuplicatesRemoved"] },
    { title = "Share of duplicates and of null keys", stat = "Maximum", metrics = ["DuplicateRate", "NullKeyRate"] },
    { title = "Duration (seconds)", stat = "Maximum", metrics = ["DurationSeconds"] },
    { title = "Rows quarantined, files not taken", stat = "Sum", metrics = ["Quarantined", "UnreadableFiles", "SchemaConflicts"] },
    { title = "Rules that fail, rules that warn", stat = "Sum", metrics = ["RulesFailed", "RulesWarned"] },
    { title = "Files written", stat = "Sum", metrics = ["OutputFiles"] },
    { title = "Bytes written", stat = "Sum", metrics = ["OutputBytes"] },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type   = "alarm"
        x      = 0
        y      = 0
        width  = 24
        height = 3
        properties = {
          title = "Alarms"
          alarms = concat(
            [aws_cloudwatch_metric_alarm.no_run_in_time.arn, aws_cloudwatch_metric_alarm.not_started.arn],
            [for key in sort(keys(local.metric_alarms)) : aws_cloudwatch_metric_alarm.quality[key].arn],
          )
        }
      }],
      [for i, chart in local.charts : {
        type   = "metric"
        x      = i % 3 * 8
        y      = 3 + floor(i / 3) * 6
        width  = 8
        height = 6
        properties = {
          title   = chart.title
          region  = local.region
          view    = "timeSeries"
          stacked = false
          period  = 3600
          stat    = chart.stat
          metrics = [for metric in chart.metrics : [var.metrics_namespace, metric, "Table", local.metric_dimensions.Table]]
        }
      }],
      [for i, table in local.log_tables : {
        type   = "log"
        x      = 0
        y      = 3 + ceil(length(local.charts) / 3) * 6 + i * 6
        width  = 24
        height = 6
        properties = {
          title  = table.title
          region = local.region
          view   = "table"
          query  = "SOURCE '${local.metrics_log_group}' | ${table.query}"
        }
      }],
    )
  })
}
