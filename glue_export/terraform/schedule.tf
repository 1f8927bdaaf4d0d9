locals {
  executions = { for i, when in var.schedules : tostring(i + 1) => when }

  # jsonencode escapes < and >, and Scheduler would not know its own placeholder any more.
  schedule_inputs = {
    for sequence, when in local.executions : sequence => replace(replace(jsonencode({
      JobName = local.job_name
      Arguments = {
        "--EXECUTION_SEQUENCE" = sequence
        "--TOTAL_EXECUTIONS"   = tostring(length(var.schedules))
        "--EXECUTION_TIME"     = "<aws.scheduler.scheduled-time>"
      }
    }), "\\u003c", "<"), "\\u003e", ">")
  }
}

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
  tags = var.tags
}

resource "aws_scheduler_schedule" "execution" {
  #checkov:skip=CKV_AWS_297:a schedule holds the names of job and arguments, no data; AWS encrypts it with a key of its own
  for_each = local.executions

  name                         = "${var.name}-${each.key}-of-${length(var.schedules)}"
  group_name                   = aws_scheduler_schedule_group.this.name
  description                  = "Execution ${each.key} of ${length(var.schedules)} of ${local.job_name}"
  schedule_expression          = each.value
  schedule_expression_timezone = var.schedule_timezone
  state                        = var.schedule_enabled ? "ENABLED" : "DISABLED"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = "arn:${local.partition}:scheduler:::aws-sdk:glue:startJobRun"
    role_arn = aws_iam_role.scheduler.arn
    input    = local.schedule_inputs[each.key]

    # A start that an earlier run is in the way of is tried again for an hour.
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 20
    }

    dead_letter_config {
      arn = aws_sqs_queue.not_started.arn
    }
  }

  depends_on = [aws_glue_job.this, aws_iam_role_policy.scheduler]
}

resource "aws_sqs_queue" "not_started" {
  name                      = "${var.name}-not-started"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = var.tags
}
