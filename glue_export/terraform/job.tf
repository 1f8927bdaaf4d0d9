locals {
  # The pyarrow of these runtimes is not documented; the job is tested with these.
  pyarrow = {
    "3.0" = ["pyarrow==5.0.0"]
    "4.0" = ["pyarrow==10.0.0"]
  }

  wheels         = [for path in var.library_paths : local.upload_locations[basename(path)] if endswith(path, ".whl")]
  libraries      = [for path in var.library_paths : local.upload_locations[basename(path)] if !endswith(path, ".whl")]
  python_modules = concat(coalesce(var.additional_python_modules, lookup(local.pyarrow, var.glue_version, [])), local.wheels)

  default_arguments = merge(
    {
      "--job-language"        = "python"
      "--job-bookmark-option" = "job-bookmark-disable"
      "--SOURCE_DATABASE"     = var.source_database
      "--SOURCE_TABLE"        = var.source_table
      "--OUTPUT_PATH"         = local.output_path
      "--LEDGER_PATH"         = local.ledger_path
      "--OUTPUT_FILE_COUNT"   = tostring(var.output_file_count)
      "--COMPRESSION_CODEC"   = var.compression_codec
      "--TOTAL_EXECUTIONS"    = tostring(length(var.schedules))
      "--METRICS_NAMESPACE"   = var.metrics_namespace
      "--KMS_KEY_ID"          = local.kms_key_arn
      "--KEY_COLUMNS"         = join(",", var.key_columns)
      "--VERSION_COLUMNS"     = join(",", var.version_columns)
    },
    var.event_column == null ? {} : { "--EVENT_COLUMN" = var.event_column },
    var.delta_log ? { "--DELTA_LOG" = "true" } : {},
    var.keep_superseded_hours > 0 ? { "--KEEP_SUPERSEDED_HOURS" = tostring(var.keep_superseded_hours) } : {},
    length(var.control_totals) > 0 ? { "--CONTROL_TOTALS" = join(", ", var.control_totals) } : {},
    { for path in local.rules_paths : "--RULES" => local.upload_locations[basename(path)] },
    local.registered ? { "--OUTPUT_DATABASE" = var.output_database, "--OUTPUT_TABLE" = var.output_table } : {},
    { for name, rate in var.thresholds : "--${name}" => tostring(rate) },
    length(local.python_modules) > 0 ? { "--additional-python-modules" = join(",", local.python_modules) } : {},
    length(local.libraries) > 0 ? { "--extra-py-files" = join(",", local.libraries) } : {},
    var.glue_metrics ? { "--enable-metrics" = "true" } : {},
    var.glue_metrics && tonumber(var.glue_version) >= 4 ? { "--enable-observability-metrics" = "true" } : {},
    # From 5.0 on all logs are continuous.
    local.is_glue_5 ? {} : { "--enable-continuous-cloudwatch-log" = "true", "--enable-continuous-log-filter" = "true" },
    var.extra_arguments,
  )
}

resource "aws_cloudwatch_log_group" "job" {
  for_each = local.log_group_names

  name              = each.value
  retention_in_days = var.log_retention_days
  kms_key_id        = local.kms_key_arn
  tags              = var.tags
}

resource "aws_glue_security_configuration" "this" {
  name = var.name

  encryption_configuration {
    cloudwatch_encryption {
      cloudwatch_encryption_mode = "SSE-KMS"
      kms_key_arn                = local.kms_key_arn
    }
    job_bookmarks_encryption {
      job_bookmarks_encryption_mode = "CSE-KMS"
      kms_key_arn                   = local.kms_key_arn
    }
    s3_encryption {
      s3_encryption_mode = "SSE-KMS"
      kms_key_arn        = local.kms_key_arn
    }
  }
}

resource "aws_glue_job" "this" {
  name                   = local.job_name
  description            = "Consolidates a day of small chargeback files into ${var.output_file_count} large ones"
  role_arn               = aws_iam_role.job.arn
  glue_version           = var.glue_version
  worker_type            = var.worker_type
  number_of_workers      = var.number_of_workers
  execution_class        = var.execution_class
  timeout                = var.timeout_minutes
  max_retries            = var.max_retries
  security_configuration = aws_glue_security_configuration.this.name
  default_arguments      = local.default_arguments
  tags                   = var.tags

  # A start while another run is on waits instead of failing.
  job_run_queuing_enabled = true

  command {
    name            = "glueetl"
    script_location = local.upload_locations[basename(local.script_path)]
    python_version  = "3"
  }

  execution_property {
    max_concurrent_runs = 1
  }

  lifecycle {
    precondition {
      condition     = !startswith("${local.ledger_prefix}/", "${var.output_prefix}/") && !startswith("${var.output_prefix}/", "${local.ledger_prefix}/")
      error_message = "ledger_prefix and output_prefix must not lie in each other."
    }
    precondition {
      condition     = var.execution_class == "STANDARD" || contains(["G.1X", "G.2X"], var.worker_type)
      error_message = "execution_class FLEX needs worker_type G.1X or G.2X."
    }
    precondition {
      condition     = (var.output_database == null) == (var.output_table == null)
      error_message = "output_database and output_table go together: give both or neither."
    }
    precondition {
      condition     = length(local.uploads) == length(local.rules_paths) + length(var.library_paths) + length(local.package_paths) + 1
      error_message = "The script, rules_path and library_paths must have different file names."
    }
  }

  depends_on = [aws_iam_role_policy.job, aws_cloudwatch_log_group.job, aws_s3_object.upload]
}
