locals {
  # One bucket may serve several purposes, hence by name.
  created_buckets = toset([for purpose in var.create_buckets : local.bucket_names[purpose]])

  lifecycle_buckets = setunion(local.created_buckets, var.manage_output_lifecycle ? [var.output_bucket] : [])
}

resource "aws_s3_bucket" "created" {
  #checkov:skip=CKV_AWS_18:access logs are written where access_log_bucket names a bucket for them
  #checkov:skip=CKV_AWS_144:the landing files and the catalog are of this region, a copy of the output elsewhere is a decision of the owner
  #checkov:skip=CKV2_AWS_62:nothing is started by objects that arrive, runs are scheduled
  for_each = local.created_buckets

  bucket = each.key
  tags   = var.tags
}

resource "aws_s3_bucket_public_access_block" "created" {
  for_each = local.created_buckets

  bucket                  = aws_s3_bucket.created[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "created" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.created[each.key].id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "created" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.created[each.key].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = local.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "created" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.created[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_logging" "created" {
  for_each = var.access_log_bucket == null ? toset([]) : local.created_buckets

  bucket        = aws_s3_bucket.created[each.key].id
  target_bucket = var.access_log_bucket
  target_prefix = "${each.key}/"
}

data "aws_iam_policy_document" "tls_only" {
  for_each = local.created_buckets

  statement {
    sid       = "RefusePlainHttp"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.created[each.key].arn, "${aws_s3_bucket.created[each.key].arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "created" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.created[each.key].id
  policy = data.aws_iam_policy_document.tls_only[each.key].json

  depends_on = [aws_s3_bucket_public_access_block.created]
}

# This resource replaces every rule that a bucket has, so a bucket that exists is only touched on demand.
resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.lifecycle_buckets

  bucket = each.key

  rule {
    id     = "abort-incomplete-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_incomplete_uploads_days
    }
  }

  dynamic "rule" {
    for_each = each.key == var.output_bucket ? [1] : []
    content {
      id     = "expire-quarantine"
      status = "Enabled"
      filter {
        prefix = "${local.ledger_prefix}/_quarantine/"
      }
      expiration {
        days = var.quarantine_days
      }
    }
  }

  dynamic "rule" {
    for_each = contains(local.created_buckets, each.key) ? [1] : []
    content {
      id     = "remove-old-versions"
      status = "Enabled"
      filter {}
      noncurrent_version_expiration {
        noncurrent_days = var.noncurrent_version_days
      }
      expiration {
        expired_object_delete_marker = true
      }
    }
  }

  depends_on = [aws_s3_bucket.created, aws_s3_bucket_versioning.created]
}

locals {
  script_path = coalesce(var.script_path, "${path.module}/../consolidate_chargebacks.py")

  # For Studio notebooks; the job itself needs neither.
  package_folder = coalesce(var.package_folder, "${path.module}/../dist")
  packages = {
    for name in fileset(local.package_folder, "chargeback_consolidation-*.{zip,whl}") : endswith(name, ".whl") ? "wheel" : "zip" => name...
  }
  package_paths = [
    for name in flatten(values(local.packages)) : "${local.package_folder}/${name}" if !contains([for path in var.library_paths : basename(path)], name)
  ]

  # The name holds the content's hash: a run that starts during a deployment gets the old script or the new one, whole.
  rules_paths = var.rules_path == null ? [] : [var.rules_path]
  uploads = {
    for path in concat([local.script_path], local.rules_paths, var.library_paths, local.package_paths) : basename(path) => {
      path = path
      key = endswith(path, ".whl") ? join("/", [var.script_prefix, substr(filesha256(path), 0, 12), basename(path)]) : join("/", [
        var.script_prefix, replace(basename(path), "/(\\.[a-z]+)$/", "-${substr(filesha256(path), 0, 12)}$1")
      ])
    }
  }
  upload_locations = { for name, upload in local.uploads : name => "s3://${local.bucket_names.script}/${upload.key}" }
}

resource "aws_s3_object" "upload" {
  for_each = local.uploads

  bucket                 = local.bucket_names.script
  key                    = each.value.key
  source                 = each.value.path
  server_side_encryption = "aws:kms"
  kms_key_id             = local.kms_key_arn
  tags                   = var.tags

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [
    aws_s3_bucket.created,
    aws_s3_bucket_versioning.created,
    aws_s3_bucket_server_side_encryption_configuration.created,
  ]
}
