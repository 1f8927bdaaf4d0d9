# Every optional part of the module, so that checkov sees it.
source_database   = "payments"
source_table      = "chargebacks"
output_database   = "payments"
output_table      = "chargebacks_consolidated"
landing_bucket    = "example-landing"
output_bucket     = "example-output"
script_bucket     = "example-scripts"
access_log_bucket = "example-access-logs"
create_buckets    = ["landing", "output", "script"]
alarm_emails      = ["payments-data@example.com"]
read_kms_key_arns = ["arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"]
