# The consolidation job, deployed: script, Glue job, schedules, roles, key, logs, alarms.
# README.md in this folder says how to use it and why it is made so.
#
#   storage.tf   buckets, lifecycle rules, uploads       schedule.tf   one schedule for each execution
#   kms.tf       the key                                 alerts.tf     topic, failed runs, alarms
#   iam.tf       the roles of job and scheduler          dashboard.tf  dashboard, saved query
#   job.tf       job, security configuration, log groups

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.id

  job_name  = var.name
  job_arn   = "arn:${local.partition}:glue:${local.region}:${local.account}:job/${local.job_name}"
  role_name = "${var.name}-job"

  bucket_names = {
    landing = var.landing_bucket
    output  = var.output_bucket
    script  = coalesce(var.script_bucket, var.output_bucket)
  }
  output_path = "s3://${var.output_bucket}/${var.output_prefix}"

  # Beside the table, as the job would choose it: _NAME next to NAME.
  ledger_prefix    = coalesce(var.ledger_prefix, replace(var.output_prefix, "/([^/]+)$/", "_$1"))
  ledger_path      = "s3://${var.output_bucket}/${local.ledger_prefix}"
  written_prefixes = [var.output_prefix, local.ledger_prefix]

  # Glue derives the names of encrypted log groups from the security configuration and the role.
  is_glue_5         = tonumber(var.glue_version) >= 5
  secured_log_group = "/aws-glue/jobs/${var.name}-role/${local.role_name}"
  log_group_names = merge(
    {
      output = "${local.secured_log_group}/output"
      error  = "${local.secured_log_group}/error"
    },
    local.is_glue_5 ? {} : { continuous = "/aws-glue/jobs/logs-v2-${var.name}" },
  )
  metrics_log_group = local.log_group_names[local.is_glue_5 ? "output" : "continuous"]
  log_group_arns = [
    for name in values(local.log_group_names) : "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${name}"
  ]

  metric_dimensions = { Table = "${var.source_database}.${var.source_table}" }
}
