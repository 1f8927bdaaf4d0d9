output "job_name" {
  description = "The Glue job."
  value       = aws_glue_job.this.name
}

output "job_role_arn" {
  description = "The job's role: what Lake Formation and bucket policies have to admit."
  value       = aws_iam_role.job.arn
}

output "script_location" {
  description = "The uploaded script."
  value       = aws_glue_job.this.command[0].script_location
}

output "studio" {
  description = "For Studio notebooks: where the library lies (null before `make package`), and the command that writes notebooks which know it."
  value = {
    for kind in ["zip", "wheel"] : kind => one([for name in lookup(local.packages, kind, []) : {
      location = local.upload_locations[name]
      command  = ".venv/bin/python -m chargeback_consolidation.studio.workbench fill --library ${local.upload_locations[name]} --sample s3://${var.output_bucket}/chargeback-sample --to studio"
    }])
  }
}

output "output_path" {
  description = "Root of the consolidated files."
  value       = local.output_path
}

output "landing_path" {
  description = "Where the landing files lie."
  value       = "s3://${var.landing_bucket}/${var.landing_prefix}"
}

output "job_arguments" {
  description = "The arguments of the job as its command takes them: chargeback-consolidation consolidate $(terraform output -raw job_arguments)."
  value = join(" ", [
    for name in ["SOURCE_DATABASE", "SOURCE_TABLE", "OUTPUT_PATH", "LEDGER_PATH", "OUTPUT_FILE_COUNT", "COMPRESSION_CODEC", "KMS_KEY_ID"] :
    "--${lower(replace(name, "_", "-"))} ${local.default_arguments["--${name}"]}"
  ])
}

output "ledger_path" {
  description = "Where ledger, lineage and quarantined rows lie."
  value       = local.ledger_path
}

output "schedule_group" {
  description = "The group of the schedules."
  value       = aws_scheduler_schedule_group.this.name
}

output "schedule_names" {
  description = "The schedules, in order of EXECUTION_SEQUENCE."
  value       = [for i in range(length(var.schedules)) : aws_scheduler_schedule.execution[tostring(i + 1)].name]
}

output "log_groups" {
  description = "The job's log groups; output holds what the script prints (Glue 5.0 and later)."
  value       = local.log_group_names
}

output "metrics_log_group" {
  description = "The log group with the METRICS lines."
  value       = local.metrics_log_group
}

output "error_log_group" {
  description = "The log group with what runs say on stderr: in one line, why one failed."
  value       = local.log_group_names.error
}

output "metrics_query" {
  description = "The saved Logs Insights query on METRICS."
  value = {
    name = aws_cloudwatch_query_definition.metrics.name
    id   = aws_cloudwatch_query_definition.metrics.query_definition_id
    text = local.metrics_query
  }
}

output "metrics_namespace" {
  description = "The CloudWatch namespace of the job's metrics."
  value       = var.metrics_namespace
}

output "kms_key_arn" {
  description = "The key of output, logs and notifications: whoever reads the output needs kms:Decrypt with it."
  value       = local.kms_key_arn
}

output "alarm_topic_arn" {
  description = "The topic of all notifications."
  value       = aws_sns_topic.alarms.arn
}

output "not_started_queue_url" {
  description = "The queue of the starts that did not succeed."
  value       = aws_sqs_queue.not_started.url
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}

output "commands" {
  description = "What an operator types most."
  value = {
    start = "aws glue start-job-run --job-name ${aws_glue_job.this.name} --arguments '{\"--PARTITION_DATE\":\"2025-11-02\"}'"
    runs  = "aws glue get-job-runs --job-name ${aws_glue_job.this.name} --max-results 5"
    logs  = "aws logs tail ${local.metrics_log_group} --follow"
  }
}
