#!/bin/bash
# The preStop hook of Spark's executors, where spark.decommission.enabled: the executor takes no more tasks, and ends
# when it has none, or when the pod's grace period is over.
for folder in /proc/[0-9]*; do
	if [ "$(cat "$folder/comm" 2>/dev/null)" = java ]; then
		kill -PWR "${folder#/proc/}"
		while [ -d "$folder" ]; do sleep 1; done
	fi
done
