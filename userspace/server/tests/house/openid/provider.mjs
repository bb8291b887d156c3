// A certified OpenID provider for the tests of OIDCAdaptor: one client, a key that can be changed, and silence on demand.
//
// node provider.mjs PORT REDIRECT_URI

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [port, redirect] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
let number = 0;
let silent = false;
let serve;

// Sessions and codes are the module's: they outlive a change of keys, as with a real provider.
function rotate() {
  number += 1;
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: `key-${number}`, use: 'sig', alg: 'ES256' };
  const provider = new Provider(issuer, {
    jwks: { keys: [key] },
    cookies: { keys: ['of the tests'] },
    clients: [{
      client_id: 'edge',
      client_secret: 's3cret',
      redirect_uris: [redirect],
      response_types: ['code'],
      grant_types: ['authorization_code'],
      token_endpoint_auth_method: 'client_secret_basic',
      id_token_signed_response_alg: 'ES256',
    }],
    claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
    conformIdTokenClaims: false,
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: 'Ann', email: 'ann@house.test' }) }),
    pkce: { required: () => true },
  });
  provider.on('server_error', (_, error) => console.error(error));
  serve = provider.callback();
}

rotate();
createServer((request, response) => {
  if (request.url === '/test/rotate') {
    rotate();
    return response.end();
  }
  if (request.url === '/test/silent' || request.url === '/test/speaks') {
    silent = request.url === '/test/silent';
    return response.end();
  }
  if (silent) {
    return request.resume();
  }
  return serve(request, response);
}).listen(Number(port), '127.0.0.1', () => console.log('ready'));
