#!/bin/bash
# Runs a command as the image's process. `driver` and `executor` are what Spark's pods on Kubernetes ask for, who say
# the rest by SPARK_* variables.
set -euo pipefail

# Hadoop wants a name for its user, and `docker run --user` may have brought a number that no file knows.
if ! getent passwd "$(id -u)" >/dev/null; then
	names=$(mktemp)
	{
		cat /etc/passwd
		echo "spark-$(id -u):x:$(id -u):$(id -g)::$HOME:/usr/sbin/nologin"
	} >"$names"
	export LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=$names NSS_WRAPPER_GROUP=/etc/group
fi

case "${1:-}" in
driver)
	shift
	set -- "$SPARK_HOME/bin/spark-submit" --deploy-mode client \
		--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" "$@"
	;;
executor)
	options=() # SPARK_JAVA_OPT_0, _1, ...: an option each, which may hold spaces
	for ((i = 0; ; i++)); do
		name=SPARK_JAVA_OPT_$i
		[ -n "${!name+set}" ] || break
		options+=("${!name}")
	done
	class_path="${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${HADOOP_CONF_DIR:+$HADOOP_CONF_DIR:}$SPARK_HOME/jars/*"
	class_path+=${SPARK_EXTRA_CLASSPATH:+:$SPARK_EXTRA_CLASSPATH}${SPARK_DIST_CLASSPATH:+:$SPARK_DIST_CLASSPATH}
	set -- java ${options[@]+"${options[@]}"} "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
		-cp "${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$class_path" \
		org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
		--driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
		--app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
		--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
	;;
esac
exec tini -s -- "$@"
