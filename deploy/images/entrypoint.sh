#!/bin/bash
# What Spark's pods on Kubernetes ask of an image: the argument `driver` or `executor`, the rest by SPARK_* variables.
# Any other command runs as it is.
set -euo pipefail

class_path="${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${HADOOP_CONF_DIR:+$HADOOP_CONF_DIR:}${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}"
class_path+="$SPARK_HOME/jars/*${SPARK_EXTRA_CLASSPATH:+:$SPARK_EXTRA_CLASSPATH}${SPARK_DIST_CLASSPATH:+:$SPARK_DIST_CLASSPATH}"

case "${1:-}" in
driver)
	shift
	command=("$SPARK_HOME/bin/spark-submit" --deploy-mode client)
	command+=(--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" "$@")
	;;
executor)
	options=() # SPARK_JAVA_OPT_0, _1, ...: one option each, which may hold spaces
	for ((i = 0; ; i++)); do
		name="SPARK_JAVA_OPT_$i"
		[ -n "${!name+set}" ] || break
		options+=("${!name}")
	done
	command=("${JAVA_HOME:+$JAVA_HOME/bin/}java" ${options[@]+"${options[@]}"} -cp "$class_path")
	command+=("-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY")
	command+=(org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend)
	command+=(--driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES")
	command+=(--app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP")
	command+=(--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME")
	;;
*) command=("$@") ;;
esac
exec tini -s -- "${command[@]}"
