resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = local.kms_key_arn
  tags              = var.tags
}

data "aws_iam_policy_document" "alarms" {
  statement {
    sid       = "PublishFailedRuns"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
  }

  statement {
    sid       = "PublishAlarms"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

resource "aws_sns_topic_subscription" "email" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

# A run that failed puts no metrics, so Glue's own event tells of it.

resource "aws_cloudwatch_event_rule" "failed_run" {
  name        = "${var.name}-failed-run"
  description = "A run of ${local.job_name} failed, was stopped or ran out of time"
  tags        = var.tags

  event_pattern = jsonencode({
    source        = ["aws.glue"]
    "detail-type" = ["Glue Job State Change"]
    detail = {
      jobName = [local.job_name]
      state   = ["FAILED", "TIMEOUT", "STOPPED"]
    }
  })
}

resource "aws_cloudwatch_event_target" "failed_run" {
  rule      = aws_cloudwatch_event_rule.failed_run.name
  target_id = "alarms"
  arn       = aws_sns_topic.alarms.arn

  input_transformer {
    input_paths = {
      job     = "$.detail.jobName"
      run     = "$.detail.jobRunId"
      state   = "$.detail.state"
      message = "$.detail.message"
    }
    input_template = "\"Run <run> of <job> ended as <state>: <message>. Its log streams begin with <run> in the log group ${local.log_group_names.output}.\""
  }
}

# The job's own metrics. A run leaves one value of each, so an alarm holds until a later run is well again.

locals {
  metric_alarms = {
    unreadable-files = {
      metric      = "UnreadableFiles"
      above       = 0
      description = "Landing files could not be read. They are named in the log and looked at again when they change."
    }
    duplicate-rate = {
      metric      = "DuplicateRate"
      above       = lookup(var.thresholds, "WARN_DUPLICATE_RATE", 0.2)
      description = "More duplicates than usual. Is the stream processor restarting, or a day replayed?"
    }
    null-key-rate = {
      metric      = "NullKeyRate"
      above       = lookup(var.thresholds, "WARN_NULL_KEY_RATE", 0)
      description = "Records without a chargeback_id. They are kept under _quarantine/ with their landing file and row."
    }
    rules-failed = {
      metric      = "RulesFailed"
      above       = 0
      description = "A rule of yours does not hold: nothing of that run is published. The log names the rule, the file and the row."
    }
    rules-warned = {
      metric      = "RulesWarned"
      above       = 0
      description = "A rule of yours whose level is warn does not hold. The log names the rule, the file and the row."
    }
    schema-conflicts = {
      metric      = "SchemaConflicts"
      above       = 0
      description = "Landing files whose columns fit no common schema. They are named in the log and not taken."
    }
    duration = {
      metric      = "DurationSeconds"
      above       = var.max_duration_minutes * 60
      description = "A run took longer than ${var.max_duration_minutes} minutes."
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "quality" {
  for_each = local.metric_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = var.metrics_namespace
  metric_name         = each.value.metric
  dimensions          = local.metric_dimensions
  statistic           = "Maximum"
  period              = 900
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.above
  treat_missing_data  = "ignore"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "no_run_in_time" {
  alarm_name          = "${var.name}-no-run-in-time"
  alarm_description   = "No run has succeeded for ${var.max_hours_between_runs} hours. Are the schedules enabled? Does every run fail?"
  namespace           = var.metrics_namespace
  metric_name         = "Succeeded"
  dimensions          = local.metric_dimensions
  statistic           = "Sum"
  period              = 3600
  evaluation_periods  = var.max_hours_between_runs
  datapoints_to_alarm = var.max_hours_between_runs
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  actions_enabled     = var.schedule_enabled
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "not_started" {
  alarm_name          = "${var.name}-not-started"
  alarm_description   = "A schedule could not start the job. The queue ${aws_sqs_queue.not_started.name} holds the request and the cause."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.not_started.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}
