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
for bucket in mlflow datasets candidates production; do
  echo "s3.bucket.list" | shell | grep -qw "$bucket" || echo "s3.bucket.create -name $bucket" | shell
done
for bucket in candidates production; do
  echo "s3.bucket.versioning -name $bucket -status Enabled" | shell
done

# identity NAME KEY SECRET ACTIONS: what it may do is said bucket by bucket, and replaces what it might before
identity() {
  echo "s3.configure -user $1 -delete -apply" | shell >/dev/null || true
  echo "s3.configure -user $1 -access_key $2 -secret_key $3 -actions $4 -apply" | shell >/dev/null
  echo "s3.configure" | shell | grep -q "\"$1\"" || { echo "identity $1 isn't there"; exit 1; }
  echo "identity $1: $4"
}
read_only() { echo "Read:$1,List:$1"; }
read_write() { echo "Read:$1,List:$1,Write:$1"; }
identity mlflow "$MLFLOW_KEY" "$MLFLOW_SECRET" "$(read_write mlflow)"
identity pipeline "$PIPELINE_KEY" "$PIPELINE_SECRET" \
  "$(read_only datasets),$(read_only production),$(read_write candidates)"
identity promotion "$PROMOTION_KEY" "$PROMOTION_SECRET" \
  "$(read_only datasets),$(read_only candidates),$(read_write production)"
identity seed "$SEED_KEY" "$SEED_SECRET" \
  "$(read_write datasets),$(read_write candidates),$(read_write production)"
identity serving "$SERVING_KEY" "$SERVING_SECRET" "$(read_only production)"
echo "The store is ready"
