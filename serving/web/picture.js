// A file becomes a picture to show and to send. Small files of the web's formats are sent as they are; what is large, or
// what only the browser can read, is drawn again as a JPEG of moderate size.

const SENT_AS_IT_IS = ["image/jpeg", "image/png", "image/webp", "image/gif"];
const MAX_BYTES = 6 * 2 ** 20;
const MAX_SIDE = 2048;

/** @returns {Promise<{dataUrl: string, name: string, ratio: number}>} Rejects with words for the reader. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name || "This"}” is not a picture that this browser can open.`);
  }
  try {
    const plain = SENT_AS_IT_IS.includes(file.type) && file.size <= MAX_BYTES;
    const dataUrl = await asDataUrl(plain ? file : await drawnAgain(bitmap));
    return { dataUrl, name: file.name || "Pasted picture", ratio: bitmap.width / bitmap.height };
  } finally {
    bitmap.close();
  }
}

/** The first picture among dropped or pasted things, or null. */
export function pictureOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

async function drawnAgain(bitmap) {
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff";
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large."))), "image/jpeg", 0.92);
  });
}

function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The picture could not be read."));
    reader.readAsDataURL(blob);
  });
}
