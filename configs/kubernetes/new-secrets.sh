#!/bin/sh
# Prints the namespace and its Secrets with new passwords and keys, for the databases of components/databases:
#   HF_TOKEN=hf_... sh configs/kubernetes/new-secrets.sh | kubectl apply -f -
# Once only: another run makes other passwords, which databases that exist do not have. For managed databases, put their
# addresses into DEAR_REGISTRY_URL, DEAR_LIMITS_URL and REDIS_PASSWORD (the Redis of Ray's head).
set -eu
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
postgres=$(random)
redis=${REDIS_PASSWORD:-$(random)}
cat <<END
apiVersion: v1
kind: Namespace
metadata:
  name: dear
---
apiVersion: v1
kind: Secret
metadata:
  name: dear
  namespace: dear
stringData:
  DEAR_ADMIN_KEY: "$(random)"
  DEAR_API_KEYS: "$(random)"
  DEAR_REGISTRY_URL: "${DEAR_REGISTRY_URL:-postgresql+psycopg://dear:$postgres@postgres/dear}"
  DEAR_LIMITS_URL: "${DEAR_LIMITS_URL:-redis://:$redis@redis:6379/1}"
  HF_TOKEN: "${HF_TOKEN:-}"
---
apiVersion: v1
kind: Secret
metadata:
  name: dear-databases
  namespace: dear
stringData:
  POSTGRES_PASSWORD: "$postgres"
  REDIS_PASSWORD: "$redis"
END
