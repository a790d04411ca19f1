#!/usr/bin/env bash
# An MLflow server: database, artifacts on S3, a password for everyone. README.md beside this file says how to use it.
#
#   MLFLOW_AUTH_ADMIN_PASSWORD=... MLFLOW_ARTIFACTS=s3://bucket/mlflow infra/mlflow/serve.sh
#
# All settings are environment variables; secrets are never written to a file.
set -euo pipefail

data=${MLFLOW_DATA:-$PWD/mlflow-server}
database=${MLFLOW_DATABASE_URL:-sqlite:///$data/mlflow.db}
users=${MLFLOW_USERS_URL:-sqlite:///$data/users.db}
host=${MLFLOW_SERVER_HOST:-127.0.0.1}
port=${MLFLOW_SERVER_PORT:-5000}
mlflow=${MLFLOW_COMMAND:-mlflow}

fail() { echo "serve.sh: $1" >&2; exit 2; }

: "${MLFLOW_ARTIFACTS:?serve.sh: where artifacts go, such as s3://bucket/mlflow (credentials: AWS_*, MLFLOW_S3_ENDPOINT_URL)}"
for url in "$database" "$users"; do
  case "$url" in
    *://*:*@*) fail "a password in MLFLOW_DATABASE_URL or MLFLOW_USERS_URL would be seen by everyone: put it in PGPASSWORD" ;;
  esac
done
if [ -z "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" ] && [ ! -e "$data/users.db" ]; then
  fail "MLFLOW_AUTH_ADMIN_PASSWORD is missing: the first start needs the password of the user ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}"
fi
case "$host" in
  127.*|localhost|::1) ;;
  *) [ -n "${MLFLOW_SERVER_ALLOWED_HOSTS:-}" ] || fail "MLFLOW_SERVER_HOST $host is seen from outside: put TLS in front, and name the public host in MLFLOW_SERVER_ALLOWED_HOSTS" ;;
esac

umask 077
mkdir -p "$data"
# What MLflow takes from a file only; nothing in it is secret.
cat > "$data/auth.ini" <<INI
[mlflow]
default_permission = READ
database_uri = $users
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
export MLFLOW_AUTH_CONFIG_PATH=$data/auth.ini MLFLOW_DISABLE_TELEMETRY=true
# Its job runner serves features for language models.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
# Signs forms of the sign-up page; a new one at each start ends open forms, no more.
export MLFLOW_FLASK_SERVER_SECRET_KEY=${MLFLOW_FLASK_SERVER_SECRET_KEY:-$(head -c 32 /dev/urandom | base64)}

exec "$mlflow" server --app-name basic-auth --host "$host" --port "$port" --workers "${MLFLOW_SERVER_WORKERS:-2}" \
  --backend-store-uri "$database" --artifacts-destination "$MLFLOW_ARTIFACTS"
