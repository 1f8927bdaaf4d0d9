# Laid beside the module by the tests: a server that stands in for AWS, which AWS_ENDPOINT_URL names.
provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
