# Runs in the pod `setup-store`, with SeaweedFS's client, which is told everything through stdin.
set -eu

shell() {
  weed shell -master="$MASTER" -filer="$FILER" 2>&1
}

n=0
until echo s3.bucket.list | shell | grep -q mlpipeline; do
  n=$((n + 1))
  [ "$n" -lt 60 ] || { echo "SeaweedFS doesn't answer at $MASTER"; exit 1; }
  sleep 3
done

# KFP's bucket, and its identity (an administrator), are upstream's own work
for bucket in mlflow datasets candidates production exposures; do
  echo "s3.bucket.list" | shell | grep -qw "$bucket" || echo "s3.bucket.create -name $bucket" | shell
done
for bucket in candidates production; do
  echo "s3.bucket.versioning -name $bucket -status Enabled" | shell
done

# identity NAME KEY SECRET: a user with the policy of that name and no other, which is the only thing that SeaweedFS asks
# then (its own rule "Write" includes to delete versions)
identity() {
  echo "s3.policy -put -name=$1 -file=/policies/$1.json" | shell >/dev/null
  echo "s3.configure -user $1 -delete -apply" | shell >/dev/null || true
  echo "s3.configure -user $1 -access_key $2 -secret_key $3 -apply" | shell >/dev/null
  echo "s3.policy.attach -policy $1 -user $1" | shell >/dev/null
  case $(echo "s3.user.show -name $1" | shell) in
    *'"policies":["'"$1"'"]'*) echo "identity $2: policy $1" ;;
    *) echo "identity $2 doesn't have the policy $1"; exit 1 ;;
  esac
}
identity mlflow "$MLFLOW_KEY" "$MLFLOW_SECRET"
identity pipeline "$PIPELINE_KEY" "$PIPELINE_SECRET"
identity promotion "$PROMOTION_KEY" "$PROMOTION_SECRET"
identity seed "$SEED_KEY" "$SEED_SECRET"
identity serving "$SERVING_KEY" "$SERVING_SECRET"
identity experiment "$EXPERIMENT_KEY" "$EXPERIMENT_SECRET"
echo "The store is ready"
