#!/bin/busybox sh
# The first program: what is appended loads the kernel's hypervisor and runs the tests.
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 16 > /proc/sys/vm/nr_hugepages
export RUST_BACKTRACE=0 VELLUM_PRESENCE=/tmp/reports
met=0

met() {
    echo "met $1: $2"
    met=$((met + 1))
}

# Loads the part $1 of the kernel from the file $2.
load() {
    insmod "$2" || echo "$1 is not loaded"
}

# Whether the hypervisor is the one that was asked for, which `hypervisor` knows.
processor() {
    echo "check $1"
    if said=$(hypervisor); then
        met "$1" "$(cut -d ' ' -f 1-3 /proc/version), $said"
    else
        echo "failed: ${said:-no hypervisor}"
    fi
}

# Runs test $3 of program $2 as check $1. It is met if this one test has passed, and has said at its gate
# that it ran, with everything that it asked for except what $4 names.
tried() {
    echo "check $1"
    : > /tmp/reports
    # A second thread, since what runs on the harness's own does not bear the test's name.
    /tests/$2 --exact "$3" --test-threads=2 > /tmp/said 2>&1
    status=$?
    passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' /tmp/said)
    ran=$(cut -f 5 /tmp/reports | grep -c -x ran)
    lacks=$(grep -v "	ran	" /tmp/reports | cut -f 4 | sort -u | grep -v -x "$4")
    if [ "$status.$passed" != 0.1 ]; then
        tail -n 20 /tmp/said
        echo "failed: $3: status $status, ${passed:-no} tests passed"
    elif [ "$ran" = 0 ] || [ -n "$lacks" ]; then
        echo "failed: $3: passed $ran gates, lacks ${lacks:-nothing}"
    else
        met "$1" "$ran gates"
    fi
}

