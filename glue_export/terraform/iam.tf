# The job's role: what consolidate_chargebacks.py calls, on the prefixes and tables that it is told about.

locals {
  s3 = "arn:${local.partition}:s3:::"

  catalog    = "arn:${local.partition}:glue:${local.region}:${local.account}"
  registered = var.output_database != null && var.output_table != null
}

# Who may hand this role to Glue is decided by iam:PassRole.
data "aws_iam_policy_document" "job_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["glue.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "job" {
  name                 = local.role_name
  description          = "Glue job ${local.job_name}"
  assume_role_policy   = data.aws_iam_policy_document.job_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

data "aws_iam_policy_document" "job" {
  statement {
    sid       = "ReadLanding"
    actions   = ["s3:GetObject"]
    resources = ["${local.s3}${var.landing_bucket}/${var.landing_prefix}/*"]
  }

  # A listing without a prefix is refused. So S3 answers 403, not 404, for an object that is missing: the job then looks
  # for it in a listing.
  statement {
    sid       = "ListLanding"
    actions   = ["s3:ListBucket"]
    resources = ["${local.s3}${var.landing_bucket}"]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.landing_prefix}/*"]
    }
  }

  statement {
    sid = "WriteOutput"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = [for prefix in local.written_prefixes : "${local.s3}${var.output_bucket}/${prefix}/*"]
  }

  statement {
    sid       = "ListOutput"
    actions   = ["s3:ListBucket"]
    resources = ["${local.s3}${var.output_bucket}"]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [for prefix in local.written_prefixes : "${prefix}/*"]
    }
  }

  # S3 has no condition on the prefix for this action.
  statement {
    sid       = "ListStagedUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = ["${local.s3}${var.output_bucket}"]
  }

  statement {
    sid       = "ReadScript"
    actions   = ["s3:GetObject"]
    resources = ["${local.s3}${local.bucket_names.script}/${var.script_prefix}/*"]
  }

  statement {
    sid     = "ReadSourceTable"
    actions = ["glue:GetDatabase", "glue:GetTable", "glue:GetPartitions"]
    resources = [
      "${local.catalog}:catalog",
      "${local.catalog}:database/${var.source_database}",
      "${local.catalog}:table/${var.source_database}/${var.source_table}",
    ]
  }

  dynamic "statement" {
    for_each = local.registered ? [1] : []
    content {
      sid = "RegisterOutputTable"
      actions = [
        "glue:GetDatabase",
        "glue:GetTable",
        "glue:CreateTable",
        "glue:UpdateTable",
        "glue:GetPartition",
        "glue:CreatePartition",
        "glue:UpdatePartition",
      ]
      resources = [
        "${local.catalog}:catalog",
        "${local.catalog}:database/${var.output_database}",
        "${local.catalog}:table/${var.output_database}/${var.output_table}",
      ]
    }
  }

  # Glue looks the configuration up as the job; this action knows no resources.
  statement {
    sid       = "ReadSecurityConfiguration"
    actions   = ["glue:GetSecurityConfiguration"]
    resources = ["*"]
  }

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:AssociateKmsKey"]
    resources = flatten([for arn in local.log_group_arns : [arn, "${arn}:*"]])
  }

  # This action knows no resources; the namespace limits it. Glue's own metrics are in "Glue".
  statement {
    sid       = "PutMetrics"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = concat([var.metrics_namespace], var.glue_metrics ? ["Glue"] : [])
    }
  }

  statement {
    sid       = "UseKey"
    actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"]
    resources = [local.kms_key_arn]
  }

  dynamic "statement" {
    for_each = length(var.read_kms_key_arns) > 0 ? [1] : []
    content {
      sid       = "DecryptWhatOthersWrote"
      actions   = ["kms:Decrypt"]
      resources = var.read_kms_key_arns
    }
  }
}

resource "aws_iam_role_policy" "job" {
  name   = "consolidate"
  role   = aws_iam_role.job.id
  policy = data.aws_iam_policy_document.job.json
}

# The scheduler's role: start this job, and keep what could not be started.

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.this.arn]
    }
  }
}

resource "aws_iam_role" "scheduler" {
  name                 = "${var.name}-scheduler"
  description          = "Schedules that start ${local.job_name}"
  assume_role_policy   = data.aws_iam_policy_document.scheduler_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "StartTheJob"
    actions   = ["glue:StartJobRun"]
    resources = [local.job_arn]
  }

  statement {
    sid       = "KeepWhatCouldNotBeStarted"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.not_started.arn]
  }
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "start-job-run"
  role   = aws_iam_role.scheduler.id
  policy = data.aws_iam_policy_document.scheduler.json
}
