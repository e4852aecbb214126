#!/bin/busybox sh
# What the guest does once its kernel is up: work that writes all over its memory, checked by itself.
# Where something is not as it was written, it begins anew, and the hypervisor says that it failed.
/bin/busybox mkdir -p /proc /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
cat /proc/version
echo "guest: up after $(cut -d ' ' -f 1 /proc/uptime) s"

broken() {
    echo "guest: $1 is broken"
    reboot -f
}

cd /tmp
seq 1 20000 > numbers
md5sum numbers > sum
for round in 1 2; do
    sort -r numbers | sort -n > sorted$round
    cmp numbers sorted$round || broken "a sorted file"
    cat sorted* | gzip -c > all.gz
    gunzip -c all.gz | head -n 20000 | cmp - numbers || broken "an archive of files"
    mkdir many$round
    for file in $(seq 1 40); do echo "$round $file" > many$round/$file; done
    tar -c many$round | tar -x -O | awk '{ sum += $2 } END { exit sum != 820 }' || broken "a folder"
    md5sum -c sum || broken "a file"
done
echo "guest: done after $(cut -d ' ' -f 1 /proc/uptime) s"
poweroff -f
