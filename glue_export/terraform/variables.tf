# What runs

variable "name" {
  description = "Name of the Glue job, and the beginning of every other name."
  type        = string
  default     = "chargeback-consolidation"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,39}$", var.name))
    error_message = "name must be 2 to 40 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "tags" {
  description = "Tags of every resource that can have tags."
  type        = map(string)
  default     = {}
}

variable "script_path" {
  description = "The exported Glue script on the machine that runs Terraform. Default: consolidate_chargebacks.py beside this folder."
  type        = string
  default     = null
}

variable "library_paths" {
  description = "More code to upload for the job, which by itself needs none: a .zip or .py goes to --extra-py-files, a .whl to --additional-python-modules."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for path in var.library_paths : can(regex("\\.(zip|whl|py)$", path))])
    error_message = "library_paths must name .zip, .whl or .py files."
  }
}

variable "rules_path" {
  description = "File with rules in DQDL that the job judges each execution by; it is uploaded under the hash of its content."
  type        = string
  default     = null
}

variable "package_folder" {
  description = "Folder with the zip and the wheel of the library, which Studio notebooks import: what is there is uploaded, the job does not use it. Default: ../dist, where `make package` puts them."
  type        = string
  default     = null
}

# Where the data is

variable "source_database" {
  description = "Database of the landing table in the Glue Data Catalog."
  type        = string
}

variable "source_table" {
  description = "The landing table."
  type        = string
}

variable "landing_bucket" {
  description = "Bucket that the stream processor writes to. The job reads it and never writes to it."
  type        = string
}

variable "landing_prefix" {
  description = "Prefix of the landing files: the location of the landing table."
  type        = string
  default     = "landing/chargebacks"

  validation {
    condition     = can(regex("^[^/*?](.*[^/*?])?$", var.landing_prefix))
    error_message = "landing_prefix must not be empty, nor begin or end with / or a wildcard."
  }
}

variable "output_bucket" {
  description = "Bucket of the consolidated files."
  type        = string
}

variable "output_prefix" {
  description = "Prefix of the consolidated files: the table and nothing else."
  type        = string
  default     = "consolidated/chargebacks"

  validation {
    condition     = can(regex("^[^/*?](.*[^/*?])?$", var.output_prefix))
    error_message = "output_prefix must not be empty, nor begin or end with / or a wildcard."
  }
}

variable "ledger_prefix" {
  description = "Prefix in output_bucket of the ledger and of quarantined rows. Default: _NAME beside the last part NAME of output_prefix."
  type        = string
  default     = null

  validation {
    condition     = var.ledger_prefix == null || can(regex("^[^/*?](.*[^/*?])?$", var.ledger_prefix))
    error_message = "ledger_prefix must not be empty, nor begin or end with / or a wildcard."
  }
}

variable "output_database" {
  description = "Existing database in which the job registers the consolidated table. Default: the table is not registered."
  type        = string
  default     = null
}

variable "output_table" {
  description = "Table that the job creates and keeps up to date in output_database. Give both or neither."
  type        = string
  default     = null
}

variable "script_bucket" {
  description = "Bucket of the script. Default: the output bucket."
  type        = string
  default     = null
}

variable "script_prefix" {
  description = "Prefix of the script, of library_paths and of the package in script_bucket."
  type        = string
  default     = "glue/chargeback-consolidation"

  validation {
    condition     = can(regex("^[^/*?](.*[^/*?])?$", var.script_prefix))
    error_message = "script_prefix must not be empty, nor begin or end with / or a wildcard."
  }
}

variable "create_buckets" {
  description = "Which buckets to create: any of landing, output, script. The others must exist. A created bucket is encrypted, versioned, private and refuses plain HTTP."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for bucket in var.create_buckets : contains(["landing", "output", "script"], bucket)])
    error_message = "create_buckets must be a set of landing, output and script."
  }
}

variable "access_log_bucket" {
  description = "Existing bucket that receives the access logs of created buckets. Default: no access logs."
  type        = string
  default     = null
}

variable "manage_output_lifecycle" {
  description = "Set the lifecycle rules of an output bucket that is not created here. They REPLACE all rules that the bucket has."
  type        = bool
  default     = false
}

variable "abort_incomplete_uploads_days" {
  description = "Days after which an upload that was never completed is removed. A committed file can still be such an upload until the next run completes it, so this must be longer than the job may stand still, and is never shorter than a run."
  type        = number
  default     = 14

  validation {
    condition     = var.abort_incomplete_uploads_days >= 3 && floor(var.abort_incomplete_uploads_days) == var.abort_incomplete_uploads_days
    error_message = "abort_incomplete_uploads_days must be a whole number of at least 3."
  }
}

variable "quarantine_days" {
  description = "Days that quarantined rows are kept."
  type        = number
  default     = 90

  validation {
    condition     = var.quarantine_days >= 1 && floor(var.quarantine_days) == var.quarantine_days
    error_message = "quarantine_days must be a whole number of at least 1."
  }
}

variable "noncurrent_version_days" {
  description = "Days that deleted and overwritten objects of a created bucket can be brought back."
  type        = number
  default     = 7

  validation {
    condition     = var.noncurrent_version_days >= 1 && floor(var.noncurrent_version_days) == var.noncurrent_version_days
    error_message = "noncurrent_version_days must be a whole number of at least 1."
  }
}

# Encryption and permissions

variable "kms_key_arn" {
  description = "Key that encrypts output, logs and notifications. Default: one is created. The README lists what the policy of your own key must allow."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, not of an alias."
  }
}

variable "read_kms_key_arns" {
  description = "Keys with which others encrypt the landing files or the Data Catalog: the job may decrypt with them."
  type        = list(string)
  default     = []
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the two roles."
  type        = string
  default     = null
}

# How the job runs

variable "glue_version" {
  description = "Glue version: 3.0, 4.0, 5.0, 5.1 or 6.0."
  type        = string
  default     = "5.1"

  validation {
    condition     = contains(["3.0", "4.0", "5.0", "5.1", "6.0"], var.glue_version)
    error_message = "glue_version must be 3.0, 4.0, 5.0, 5.1 or 6.0."
  }
}

variable "worker_type" {
  description = "Worker type."
  type        = string
  default     = "G.1X"

  validation {
    condition     = contains(["G.1X", "G.2X", "G.4X", "G.8X"], var.worker_type)
    error_message = "worker_type must be G.1X, G.2X, G.4X or G.8X."
  }
}

variable "number_of_workers" {
  description = "Workers, the driver included. Two suffice for 1.25 million records in an execution."
  type        = number
  default     = 2

  validation {
    condition     = var.number_of_workers >= 2 && var.number_of_workers <= 299
    error_message = "number_of_workers must be from 2 to 299."
  }
}

variable "execution_class" {
  description = "STANDARD starts at once. FLEX costs a third less, starts when there is spare capacity and may lose workers, which the job survives."
  type        = string
  default     = "STANDARD"

  validation {
    condition     = contains(["STANDARD", "FLEX"], var.execution_class)
    error_message = "execution_class must be STANDARD or FLEX."
  }
}

variable "timeout_minutes" {
  description = "Minutes after which a run is stopped. The next run takes up its work."
  type        = number
  default     = 60

  validation {
    condition     = var.timeout_minutes >= 5 && var.timeout_minutes <= 1440
    error_message = "timeout_minutes must be from 5 to 1440."
  }
}

variable "max_retries" {
  description = "How often Glue repeats a failed run."
  type        = number
  default     = 1

  validation {
    condition     = var.max_retries >= 0 && var.max_retries <= 10
    error_message = "max_retries must be from 0 to 10."
  }
}

variable "additional_python_modules" {
  description = "Modules for --additional-python-modules. Default: a pyarrow for Glue 3.0 and 4.0, whose own is not documented; none for later versions, which ship one."
  type        = list(string)
  default     = null
}

variable "glue_metrics" {
  description = "Publish Glue's own metrics of a run (memory, CPU, workers)."
  type        = bool
  default     = true
}

# What the job is told

variable "output_file_count" {
  description = "OUTPUT_FILE_COUNT: files in a day's partition."
  type        = number
  default     = 10

  validation {
    condition     = var.output_file_count >= 1 && var.output_file_count <= 10000
    error_message = "output_file_count must be from 1 to 10000."
  }
}

variable "compression_codec" {
  description = "COMPRESSION_CODEC: snappy, gzip, zstd, lz4 or none."
  type        = string
  default     = "snappy"

  validation {
    condition     = contains(["snappy", "gzip", "zstd", "lz4", "none"], var.compression_codec)
    error_message = "compression_codec must be snappy, gzip, zstd, lz4 or none."
  }
}

variable "thresholds" {
  description = "Thresholds of the quality checks that differ from the job's defaults, such as { MAX_DUPLICATE_RATE = 0.3 }. The alarms of duplicates and missing keys follow their WARN_ rates."
  type        = map(number)
  default     = {}

  validation {
    condition = alltrue([
      for name, rate in var.thresholds :
      can(regex("^(MAX|WARN)_(DUPLICATE|NULL_KEY|MISSING_VERSION|OUTSIDE_DAY|UNREADABLE|SCHEMA_CONFLICT)_RATE$", name)) && rate >= 0 && rate <= 1
    ])
    error_message = "thresholds must map MAX_..._RATE or WARN_..._RATE to a number from 0 to 1; the rates are DUPLICATE, NULL_KEY, MISSING_VERSION, OUTSIDE_DAY, UNREADABLE, SCHEMA_CONFLICT."
  }
}

variable "key_columns" {
  description = "KEY_COLUMNS: the columns that together tell one chargeback from another. Each day remembers them."
  type        = list(string)
  default     = ["chargeback_id"]

  validation {
    condition     = length(var.key_columns) > 0 && alltrue([for name in var.key_columns : trimspace(name) != "" && !strcontains(name, ",")])
    error_message = "key_columns must be names of columns, without commas in them."
  }
}

variable "version_columns" {
  description = "VERSION_COLUMNS: the columns that say how late a version is, the first that has a value, the next for a tie."
  type        = list(string)
  default     = ["updated_at", "event_timestamp"]

  validation {
    condition     = length(var.version_columns) > 0 && alltrue([for name in var.version_columns : trimspace(name) != "" && !strcontains(name, ",")])
    error_message = "version_columns must be names of columns, without commas in them."
  }
}

variable "event_column" {
  description = "EVENT_COLUMN: the column that says to which day a record belongs; the last of version_columns where it is null."
  type        = string
  default     = null
}

variable "control_totals" {
  description = "CONTROL_TOTALS: sums that must come out as they went in, such as \"amount by currency\": integers or decimals, by a column of text."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for total in var.control_totals : can(regex("^[^, ].* by [^, ]", total)) && !strcontains(total, ",")])
    error_message = "Each of control_totals must be such as \"amount by currency\"."
  }
}

variable "delta_log" {
  description = "DELTA_LOG: keep a Delta Lake log of the table, so that every engine sees one consistent day. A registered table is then a Delta table."
  type        = bool
  default     = false
}

variable "keep_superseded_hours" {
  description = "KEEP_SUPERSEDED_HOURS: how long superseded files stay for readers of a snapshot or of the Delta log, and to go back."
  type        = number
  default     = 0

  validation {
    condition     = var.keep_superseded_hours >= 0 && var.keep_superseded_hours <= 8760 && floor(var.keep_superseded_hours) == var.keep_superseded_hours
    error_message = "keep_superseded_hours must be a whole number from 0 to 8760."
  }
}

variable "metrics_namespace" {
  description = "METRICS_NAMESPACE: CloudWatch namespace of the job's metrics."
  type        = string
  default     = "ChargebackConsolidation"

  validation {
    condition     = can(regex("^[A-Za-z0-9._/#-]{1,255}$", var.metrics_namespace)) && !startswith(var.metrics_namespace, "AWS/")
    error_message = "metrics_namespace must be 1 to 255 letters, digits and . _ / # -, and not begin with AWS/."
  }
}

variable "extra_arguments" {
  description = "More default arguments of the job, such as { \"--ALLOW_EMPTY\" = \"true\" }. They win over those set here."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.extra_arguments) : startswith(name, "--")])
    error_message = "extra_arguments must be named with their two hyphens, as in --ALLOW_EMPTY."
  }
}

# When it runs

variable "schedules" {
  description = "One expression for each execution of the day, in order of EXECUTION_SEQUENCE; their number is TOTAL_EXECUTIONS."
  type        = list(string)
  default     = ["cron(0 1 * * ? *)", "cron(0 7 * * ? *)", "cron(0 13 * * ? *)", "cron(0 19 * * ? *)"]

  validation {
    condition     = length(var.schedules) >= 1 && alltrue([for when in var.schedules : can(regex("^cron\\(.+\\)$", when))])
    error_message = "schedules must be one or more cron(...) expressions."
  }
}

variable "schedule_timezone" {
  description = "Time zone of the schedules. The job reckons in UTC: PARTITION_DATE is the day before the scheduled time in UTC."
  type        = string
  default     = "UTC"
}

variable "schedule_enabled" {
  description = "Whether the schedules start runs."
  type        = bool
  default     = true
}

# Who hears of it

variable "alarm_emails" {
  description = "Addresses that get the notifications. Each confirms its subscription once."
  type        = set(string)
  default     = []
}

variable "log_retention_days" {
  description = "Days that logs are kept: a value that CloudWatch Logs offers, or 0 for ever."
  type        = number
  default     = 365
}

variable "max_hours_between_runs" {
  description = "Alarm if no run has succeeded for so many hours."
  type        = number
  default     = 8

  validation {
    condition     = var.max_hours_between_runs >= 1 && var.max_hours_between_runs <= 168
    error_message = "max_hours_between_runs must be from 1 to 168."
  }
}

variable "max_duration_minutes" {
  description = "Alarm if a run takes longer."
  type        = number
  default     = 20

  validation {
    condition     = var.max_duration_minutes >= 1
    error_message = "max_duration_minutes must be at least 1."
  }
}
