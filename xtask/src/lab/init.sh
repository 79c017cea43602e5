#!/bin/busybox sh
# PID 1 of the lab. Loads modules, shows the host's files with a layer of memory over them, and
# runs /command there. Its output goes to the first virtio port, its status to the second. A port
# is opened once: /dev/stdout by name is an error, as it is for a socket.
#
# What goes wrong before the command is on the console, which the lab quotes.
set -e
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /load-modules
ip link set lo up

mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root
mkdir -p /root/proc /root/sys /root/dev /root/run /root/tmp /root/scratch
mount -t tmpfs -o mode=755 run /root/run
mount -t ext4 /dev/vda /root/scratch
mkdir -p -m 1777 /root/scratch/tmp
cp /command /root/run/lab-command
for directory in proc sys dev; do mount -o move /$directory /root/$directory; done
ln -s /proc/self/fd /root/dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s fd/${number%:*} /root/dev/${number#*:}; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777 shm /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup

# The ports are made by a worker of the kernel, a moment after the module; a shell has no event
# for it.
until [ -c /root/dev/vport*p1 ] && [ -c /root/dev/vport*p2 ]; do sleep 0.05; done
set +e
chroot /root /bin/sh /run/lab-command </root/dev/null >$(echo /root/dev/vport*p1) 2>&1
echo $? >$(echo /root/dev/vport*p2)
poweroff -f
