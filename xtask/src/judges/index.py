# An index of Python packages and a registry of npm, made in memory, on a free port of 127.0.0.1.
# Prints one line of JSON: the port, and what a right installation prints. Ends with its input.
import base64, hashlib, http.server, io, json, random, sys, tarfile, threading, zipfile

PARTS = 60
HOST = 'host.coffer.internal'
files = {}
blob = random.Random(7).randbytes(8 << 20)
digest = hashlib.sha256(blob).hexdigest()


def wheel(name, needs, contents):
    data = io.BytesIO()
    info = f'{name}-1.dist-info'
    lines = [f'Metadata-Version: 2.1\nName: {name}\nVersion: 1\n']
    lines += [f'Requires-Dist: {need}\n' for need in needs]
    with zipfile.ZipFile(data, 'w') as archive:
        for path, content in contents.items():
            archive.writestr(path, content)
        archive.writestr(f'{info}/METADATA', ''.join(lines))
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', ''.join(f'{n},,\n' for n in archive.namelist()) + f'{info}/RECORD,,\n')
    path = f'/wheels/{name}-1-py3-none-any.whl'
    files[path] = ('application/zip', data.getvalue())
    link = f'<a href="{path}#sha256={hashlib.sha256(data.getvalue()).hexdigest()}">{path[8:]}</a>'
    files[f'/simple/{name.replace("_", "-")}/'] = ('text/html', link.encode())


def package(port, name, needs, contents):
    data = io.BytesIO()
    manifest = {'name': name, 'version': '1.0.0', 'main': 'index.js', 'dependencies': needs}
    with tarfile.open(fileobj=data, mode='w:gz') as archive:
        for path, content in {'package.json': json.dumps(manifest).encode(), **contents}.items():
            entry = tarfile.TarInfo(f'package/{path}')
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path = f'/{name}/-/{name}-1.0.0.tgz'
    files[path] = ('application/octet-stream', data.getvalue())
    integrity = base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
    dist = {'tarball': f'http://{HOST}:{port}{path}', 'integrity': 'sha512-' + integrity}
    document = {'name': name, 'dist-tags': {'latest': '1.0.0'}, 'versions': {'1.0.0': {**manifest, 'dist': dist}}}
    files[f'/{name}'] = ('application/json', json.dumps(document).encode())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        kind, body = files.get(self.path, ('text/plain', b'no such file'))
        self.send_response(200 if self.path in files else 404)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # npm opens many connections at once.
    request_queue_size = 128


server = Server(('127.0.0.1', 0), Handler)
port = server.server_address[1]
parts = range(PARTS)
for i in parts:
    wheel(f'judged_part_{i}', [], {f'judged_part_{i}.py': f'N = {i}\n'})
    package(port, f'judged-part-{i}', {}, {'index.js': f'module.exports = {i}\n'.encode()})
total = 'import hashlib, importlib, pathlib\n' + f'''
n = sum(importlib.import_module(f'judged_part_{{i}}').N for i in range({PARTS}))
print(n, hashlib.sha256((pathlib.Path(__file__).parent / 'judged.bin').read_bytes()).hexdigest())
'''
wheel('judged', [f'judged-part-{i}' for i in parts], {'judged.py': total, 'judged.bin': blob})
total = f'''
let n = 0
for (let i = 0; i < {PARTS}; i++) n += require('judged-part-' + i)
const blob = require('fs').readFileSync(__dirname + '/judged.bin')
console.log(n, require('crypto').createHash('sha256').update(blob).digest('hex'))
'''
package(port, 'judged', {f'judged-part-{i}': '1' for i in parts}, {'index.js': total.encode(), 'judged.bin': blob})
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({'port': port, 'expected': f'{sum(parts)} {digest}'}), flush=True)
sys.stdin.read()
