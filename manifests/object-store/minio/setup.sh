# Runs in the pod `setup-store`, with MinIO's client; `store` is MC_HOST_store.
set -eu

n=0
# not mc ready, which waits for ever
until curl -fsS --max-time 5 http://minio:9000/minio/health/cluster >/dev/null; do
  n=$((n + 1))
  [ "$n" -lt 60 ] || { echo "MinIO doesn't answer at minio:9000"; exit 1; }
  sleep 3
done

for bucket in mlpipeline mlflow datasets candidates production exposures; do
  mc mb --ignore-existing "store/$bucket"
done
for bucket in candidates production; do
  mc version enable "store/$bucket"
done

# identity NAME KEY SECRET: a user with the policy of that name and no other; the secret goes through stdin, as the
# arguments of a process can be seen
identity() {
  mc admin policy create store "$1" "/policies/$1.json"
  printf '%s\n%s\n' "$2" "$3" | mc admin user add store >/dev/null
  # attaching what is attached is an error
  mc admin policy attach store "$1" --user "$2" >/dev/null 2>&1 || true
  case $(mc admin user info --json store "$2") in
    *'"policyName"'*'"'"$1"'"'*) echo "identity $2: policy $1" ;;
    *) echo "identity $2 doesn't have the policy $1"; exit 1 ;;
  esac
}
identity kfp "$KFP_KEY" "$KFP_SECRET"
identity mlflow "$MLFLOW_KEY" "$MLFLOW_SECRET"
identity pipeline "$PIPELINE_KEY" "$PIPELINE_SECRET"
identity promotion "$PROMOTION_KEY" "$PROMOTION_SECRET"
identity seed "$SEED_KEY" "$SEED_SECRET"
identity serving "$SERVING_KEY" "$SERVING_SECRET"
identity experiment "$EXPERIMENT_KEY" "$EXPERIMENT_SECRET"
echo "The store is ready"
