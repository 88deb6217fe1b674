package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// qemu-img meets bytes that anyone may have written. It gets a root of its own with its program and libraries, read-only, and one
// directory with the image; no network, no /proc, no devices, no capabilities, an ordinary user's id, and limits.
const (
	// imgUser is who it runs as, and owns what it may read and write: no user of the host, nor of any machine.
	imgUser = 64_999
	// imgMemory, imgFiles and imgTime bound one run: address space in bytes, open files, and how long it may take.
	imgMemory = 2 << 30
	imgFiles  = 64
	imgTime   = time.Hour
	// maxSaid bounds what is kept of its messages, in bytes.
	maxSaid = 4 << 10
	// imgWork is where it finds the directory with the image.
	imgWork = "/work"
	// unconfined is what a run ends with that never came to qemu-img.
	unconfined = 125
)

// confining makes the root and starts the program there. Its arguments: the work directory, the user, the limits of address
// space, file size, processor seconds and open files, the program and its arguments.
const confining = `set -e
trap 'exit 125' EXIT
work=$1 user=$2 space=$3 file=$4 cpu=$5 files=$6
shift 6
mount -t tmpfs -o mode=755,size=1m,nosuid,nodev none "$work/root"
cd "$work/root"
for d in /usr/bin /usr/lib /usr/lib64; do
  [ -d "$d" ] || continue
  mkdir -p ".$d"
  mount -o bind,ro,nosuid,nodev "$d" ".$d"
done
for d in /bin /lib /lib64; do
  if [ -L "$d" ]; then ln -s "usr$d" ".$d"
  elif [ -d "$d" ]; then mkdir ".$d"; mount -o bind,ro,nosuid,nodev "$d" ".$d"; fi
done
mkdir etc work old proc dev
: > dev/null
mount -o bind /dev/null dev/null
mount -t proc -o nosuid,nodev,noexec none proc
[ ! -e /etc/ld.so.cache ] || cp /etc/ld.so.cache etc/
mount -o bind,nosuid,nodev,noexec "$work/files" work
pivot_root . old
cd /
umount -l /old
rmdir /old
umount -l /proc
mount -o remount,ro,nosuid,nodev /
trap - EXIT
set +e # it is no first process: signals at its limits must end it
nice -n 10 prlimit --as="$space" --fsize="$file" --cpu="$cpu" --nofile="$files" --core=0 -- \
  setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
exit $?
`

// workbench is a directory for one image that is being looked at: files holds it and what is made of it.
type workbench struct {
	s   *Store
	dir string
}

// newWorkbench makes one below the directory that Open empties.
func (s *Store) newWorkbench() (*workbench, error) {
	dir, err := os.MkdirTemp(s.disks(makingDir), "image-")
	if err != nil {
		return nil, err
	}
	w := &workbench{s, dir}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "root"), 0o755), os.Mkdir(filepath.Join(dir, "files"), 0o700), os.Chown(filepath.Join(dir, "files"), imgUser, imgUser)); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *workbench) close() error { return os.RemoveAll(w.dir) }

func (w *workbench) path(name string) string { return filepath.Join(w.dir, "files", name) }

// put writes a file for qemu-img to read.
func (w *workbench) put(name string, r io.Reader) (size int64, err error) {
	f, err := os.OpenFile(w.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(f, r)
	return size, errors.Join(err, f.Chown(imgUser, imgUser), f.Close())
}

// run has qemu-img do something with the files of the bench, which are below imgWork for it. No file of its gets larger than most
// bytes. The error of a run that ended with a code is an *exec.ExitError, and says what qemu-img said.
func (w *workbench) run(ctx context.Context, most int64, p func(percent float64), args ...string) error {
	for _, program := range []string{"qemu-img", "unshare", "setpriv", "prlimit", "pivot_root"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("disk images need %s, which is not installed; `nacre doctor --install` installs it", program)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, imgTime, fmt.Errorf("it took longer than %s", imgTime))
	defer cancel()
	// It ends with nacre, whichever way that ends. The kernel looks at the thread that started it, so this one stays until the end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child", "--", "sh", "-c", confining, "sh",
		w.dir, number(imgUser), number(imgMemory), number(most), number(int64(imgTime.Seconds())), number(imgFiles), "qemu-img"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	said := &tail{most: maxSaid}
	cmd.Stdout, cmd.Stderr = percents{p}, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, said)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	b    []byte
	most int
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[max(0, len(b)-t.most):]...)
	t.b = t.b[max(0, len(t.b)-t.most):]
	return len(b), nil
}

// String is the last lines, without what is no text.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.b), "?")), "\n")
	return strings.ReplaceAll(strings.Join(lines[max(0, len(lines)-3):], "; "), imgWork+"/", "")
}

// percents reads how far qemu-img is: "    (12.34/100%)" and a carriage return each time.
type percents struct{ tell func(float64) }

func (p percents) Write(b []byte) (int, error) {
	if p.tell == nil {
		return len(b), nil
	}
	if _, after, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, '(')):], []byte("(")); ok {
		word, _, found := bytes.Cut(after, []byte("/"))
		if n, err := strconv.ParseFloat(string(word), 64); found && err == nil && n >= 0 && n <= 100 {
			p.tell(n)
		}
	}
	return len(b), nil
}
